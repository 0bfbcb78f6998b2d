"""--api-server-count, and what can't be had together with it."""

from __future__ import annotations

import pytest

from headway.server.config.sources import resolve
from headway.server.errors import ConfigError


@pytest.mark.parametrize("words", [["-asc", "3"], ["--api-server-count=3"]])
def test_every_spelling(words: list[str]) -> None:
    assert resolve(["demo", *words], {}).config.network.api_server_count == 3


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_a_count_that_is_none(count: str) -> None:
    with pytest.raises(ConfigError, match="--api-server-count"):
        resolve(["demo", "--api-server-count", count], {})


@pytest.mark.parametrize("flag", ["--enable-stateful-sessions", "--enable-lora", "--enable-custom-handlers"])
def test_what_one_process_keeps_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", "-asc", "2", flag], {})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{flag} needs --api-server-count 1, not 2: ")
    assert resolve(["demo", "-asc", "1", flag], {}).config.network.api_server_count == 1
