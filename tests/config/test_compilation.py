"""--compilation-config: the one key of vLLM's that is taken, and the sentence for each that is not."""

from __future__ import annotations

import pytest

from headway.server.config.server import warnings
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError

ENABLED = '{"pass_config": {"enable_sp": true}}'


@pytest.mark.parametrize(
    "words", [["-cc", ENABLED], [f"--compilation-config={ENABLED}"], ["-cc.pass_config.enable_sp=true"]], ids=lambda words: words[0]
)
def test_sequence_parallel(words: list[str]) -> None:
    config = resolve(["demo", "-tp", "2", *words], {}).config
    assert config.compilation.shards_tokens
    assert not warnings(config)


def test_nothing_is_shared_unless_asked_for() -> None:
    for argv in ([], ["-cc", "{}"], ["-cc", '{"pass_config": {"enable_sp": false}}']):
        assert not resolve(["demo", *argv], {}).config.compilation.shards_tokens


def test_one_device_has_nobody_to_share_with() -> None:
    (told,) = warnings(resolve(["demo", "-cc", ENABLED], {}).config)
    assert told.startswith("--compilation-config: enable_sp has no effect on one device")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('{"mode": 3}', "'mode': nothing is compiled here: leave it out"),
        ('{"cudagraph_capture_sizes": [1]}', "'cudagraph_capture_sizes': it has an option of its own, --cudagraph-capture-sizes"),
        ('{"pass_config": true}', "pass_config must be an object, got True"),
        ('{"pass_config": {"fuse_gemm_comms": true}}', "pass_config: 'fuse_gemm_comms' is none of its keys here"),
        ('{"pass_config": {"enable_sp": 1}}', "pass_config: enable_sp must be true or false, got 1"),
    ],
)
def test_what_is_not_taken(value: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^--compilation-config: {told}"):
        resolve(["demo", f"--compilation-config={value}"], {})
