"""--data-parallel-size in every spelling, and what of vLLM's other options about it is taken."""

from __future__ import annotations

import pytest

from headway.server.config.sources import resolve
from headway.server.errors import ConfigError


@pytest.mark.parametrize("words", [["-dp", "3"], ["-dp3"], ["-dp=3"], ["--data-parallel-size=3"], ["--data_parallel_size", "3"]])
def test_every_spelling(words: list[str]) -> None:
    assert resolve(["demo", *words], {}).config.data_parallel.data_parallel_size == 3


def test_the_environment() -> None:
    assert resolve(["demo"], {"SM_VLLM_DATA_PARALLEL_SIZE": "3"}).config.data_parallel.data_parallel_size == 3
    assert resolve(["demo"], {}).config.data_parallel.data_parallel_size == 1


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_a_count_that_is_none(count: str) -> None:
    with pytest.raises(ConfigError, match="--data-parallel-size"):
        resolve(["demo", "--data-parallel-size", count], {})


@pytest.mark.parametrize("words", [["--data-parallel-rank", "1"], ["-dpe"], ["-dpl", "2"], ["--data-parallel-backend", "ray"]])
def test_engines_elsewhere_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="the engines of --data-parallel-size are all on this host"):
        resolve(["demo", "-dp", "2", *words], {})
