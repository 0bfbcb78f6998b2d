"""The switches of the operator's routes: who is warned."""

from __future__ import annotations

import pytest

from headway.server.config.sources import resolve


@pytest.mark.parametrize(
    ("words", "environ", "named"),
    [
        (["--enable-sleep-mode"], {}, ["--enable-sleep-mode"]),
        ([], {"VLLM_SERVER_DEV_MODE": "1"}, ["--enable-dev-routes"]),
        (["--enable-sleep-mode", "--enable-dev-routes"], {}, ["--enable-sleep-mode", "--enable-dev-routes"]),
        (["--enable-sleep-mode", "--api-key", "k"], {}, []),
        ([], {"VLLM_SERVER_DEV_MODE": "0"}, []),
    ],
)
def test_without_a_key_they_are_warned_about(words: list[str], environ: dict[str, str], named: list[str]) -> None:
    found = [warning for warning in resolve(["demo", *words], environ).warnings if "without --api-key" in warning]
    assert len(found) == bool(named)
    assert all(flag in found[0] for flag in named)
