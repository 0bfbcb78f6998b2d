"""An engine whose cache is too small: with copies of its blocks it gives the same tokens, and computes less for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Output, make_engine, request, run
from offloading_engines import counts, tokens
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError
from headway.server.source.files import ModelFiles

BLOCK = 16
PROMPTS = [[(7 * index + position * position) % 250 for position in range(100 + index)] for index in range(6)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"))


def engine(files: ModelFiles, **transfer: Any) -> EngineCore:
    cache = {"num_gpu_blocks_override": 20, "block_size": BLOCK}
    return make_engine(files, model={"max_model_len": 256}, cache=cache, kv_transfer=transfer)


def places(**extra: Any) -> dict[str, Any]:
    return {"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}}


def on_disk(path: Path, num_bytes: int = 10**8) -> dict[str, Any]:
    return places(disk_path=str(path), disk_bytes_to_use=num_bytes)


def answers(core: EngineCore, word: str) -> list[Output]:
    """One after the other: each finds what the one before left."""
    found = []
    for index, prompt in enumerate(PROMPTS):
        name = f"{word} {index}"
        found.append(run(core, [request(name, prompt, max_tokens=20)])[name])
    return found


@pytest.fixture(scope="module")
def expected(files: ModelFiles) -> Iterator[list[list[int]]]:
    core = make_engine(files, model={"max_model_len": 256}, cache={"num_gpu_blocks_override": 20, "block_size": BLOCK})
    first, second = answers(core, "first"), answers(core, "second")
    assert tokens(first) == tokens(second)
    assert not any(output.num_cached_tokens for output in second), "the cache is too small to find anything again"
    yield tokens(first)
    core.shutdown()


@pytest.mark.parametrize("is_in_memory", [True, False])
def test_the_same_tokens_for_less(files: ModelFiles, expected: list[list[int]], tmp_path: Path, is_in_memory: bool) -> None:
    core = engine(files, **({"kv_offloading_size": 0.05} if is_in_memory else on_disk(tmp_path / "kv")))
    assert tokens(answers(core, "first")) == expected
    again = answers(core, "second")
    assert tokens(again) == expected
    assert all(output.num_cached_tokens == len(prompt) // BLOCK * BLOCK for output, prompt in zip(again, PROMPTS, strict=True))
    assert counts(core).num_loaded_bytes > 0
    assert core.stats().transfers.num_fetched_tokens > 0  # type: ignore[union-attr]
    core.shutdown()


def test_many_at_a_time_that_give_way_to_each_other(files: ModelFiles, expected: list[list[int]]) -> None:
    core = engine(files, kv_offloading_size=0.05)
    for word in ("first", "second"):
        found = run(core, [request(f"{word} {index}", prompt, max_tokens=20) for index, prompt in enumerate(PROMPTS)])
        assert [found[f"{word} {index}"].token_ids for index in range(len(PROMPTS))] == expected
        assert all(found[f"{word} {index}"].num_cached_tokens <= len(prompt) for index, prompt in enumerate(PROMPTS)), (
            "what is preempted is not counted again"
        )
    core.shutdown()


def test_a_restart_finds_it_again_and_a_damaged_file_is_computed(
    files: ModelFiles, expected: list[list[int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = engine(files, **on_disk(tmp_path))
    answers(core, "first")
    core.shutdown()
    blocks = [path for path in tmp_path.glob("*/*/*") if path.is_file()]
    assert blocks
    core = engine(files, **on_disk(tmp_path))
    found = answers(core, "second")
    assert tokens(found) == expected
    assert all(output.num_cached_tokens >= 96 for output in found)
    core.shutdown()
    for path in tmp_path.glob("*/*/*"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    core = engine(files, **on_disk(tmp_path))
    with caplog.at_level(logging.WARNING):
        found = answers(core, "third")
    assert tokens(found) == expected
    assert not any(output.num_cached_tokens for output in found)
    assert caplog.text.count("is damaged") == 1
    assert counts(core).num_failed_loads > 0
    core.shutdown()


def test_the_directory_stays_within_its_bytes(files: ModelFiles, expected: list[list[int]], tmp_path: Path) -> None:
    limit = 100_000
    core = engine(files, **on_disk(tmp_path, limit))
    assert tokens(answers(core, "first")) == expected
    core.shutdown()
    sizes = [path.stat().st_size for path in tmp_path.glob("*/*/*") if path.is_file()]
    assert limit - 2 * sizes[0] < sum(sizes) <= limit


@pytest.mark.parametrize(
    ("transfer", "told"),
    [
        (places(cpu_bytes_to_use=10), "holds 10 bytes, and a block of all ranks needs"),
        (places(cpu_bytes_to_use=10**6, block_size=32), "block_size 32: blocks are offloaded as they are, of 16"),
        ({"kv_offloading_size": 10**6}, "of the host's memory, and"),
    ],
)
def test_what_can_not_be_had(files: ModelFiles, transfer: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        engine(files, **transfer)


def test_keys_that_another_context_length_rotates_otherwise_are_not_found(tmp_path: Path) -> None:
    """Of a model whose rotary embedding has other factors for contexts of more than 16 tokens."""
    files = make_tiny_model("phi4-mini", tmp_path / "model")

    def num_found(max_model_len: int) -> int:
        cache = {"num_gpu_blocks_override": 20, "block_size": 4}
        core = make_engine(files, model={"max_model_len": max_model_len}, cache=cache, kv_transfer=on_disk(tmp_path / "kv"))
        found = run(core, [request("r", list(range(3, 15)), max_tokens=2)])["r"].num_cached_tokens
        core.shutdown()
        return found

    assert [num_found(length) for length in (64, 32, 16, 12 + 2)] == [0, 8, 0, 8]
