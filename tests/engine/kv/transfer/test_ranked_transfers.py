"""Engines of several ranks, with NIXL between them: each rank reads what its like at the other has."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from disaggregated import config_of
from engine_driver import make_engine, request
from polling import wait_until
from ports import claimed_ports
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import RankDied
from headway.server.source.files import ModelFiles
from headway.server.types import GenerateRequest, KVTransfer, TokenDelta

pytest.importorskip("nixl_cu12")

LONG = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31] * 4
SHARES_CACHE = {"tensor_parallel_size": 2, "decode_context_parallel_size": 2, "cp_kv_cache_interleave_size": 2}


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Rank 0 takes its share of them for good."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pids_of(engine: EngineCore) -> list[int]:
    pids: list[int] = engine._executor._ranks.pids  # type: ignore[attr-defined]
    return pids


@contextmanager
def engine_of(files: ModelFiles, role: str, compilation: dict[str, Any] | None = None, **parallel: int) -> Iterator[EngineCore]:
    engine = make_engine(
        files,
        model={"max_model_len": 256},
        scheduler={"max_num_batched_tokens": 15, "max_num_seqs": 4},
        cache={"block_size": 4, "num_gpu_blocks_override": 40},
        parallel=parallel or {"tensor_parallel_size": 2},
        compilation=compilation or {},
        kv_transfer={"kv_transfer_config": config_of(role), "nixl_side_channel_port": claimed_ports(4)},
    )
    yield engine
    engine.shutdown()


def with_transfer(one: GenerateRequest, transfer: KVTransfer) -> GenerateRequest:
    return msgspec.structs.replace(one, kv_transfer=transfer)


def answered(engine: EngineCore, one: GenerateRequest) -> tuple[list[int], TokenDelta]:
    """Its tokens and its terminal delta."""
    engine.add_request(one)
    deltas: list[TokenDelta] = []

    def has_ended() -> bool:
        deltas.extend(engine.step().deltas)
        return bool(deltas) and deltas[-1].finish_reason is not None

    wait_until(has_ended)
    return [token for delta in deltas for token in delta.token_ids], deltas[-1]


def assert_nothing_is_held(engine: EngineCore) -> None:
    def is_free() -> bool:
        engine.settle()
        return engine.stats().num_blocks_used == 0

    wait_until(is_free)
    engine.check_idle()


def assert_moved(keeper: EngineCore, reader: EngineCore) -> None:
    """Of the second prompt the first blocks are at the reader already."""
    for name, prompt in (("first", LONG), ("longer", [*LONG, 5, 9, 200, 31, 8, 2, 11])):
        _, kept = answered(keeper, with_transfer(request(name, prompt, max_tokens=1), KVTransfer(keeps=True)))
        assert kept.kv_source is not None
        assert kept.kv_source.num_ranks == len(pids_of(keeper)) + 1
        tokens, last = answered(reader, with_transfer(request(name, prompt, max_tokens=6), KVTransfer(source=kept.kv_source)))
        assert last.error is None
        assert last.num_fetched_tokens > 0
        assert (last.num_fetched_tokens == len(prompt) - 1) == (name == "first")
        assert tokens == answered(keeper, request(f"{name} alone", prompt, max_tokens=6))[0]
        assert_nothing_is_held(keeper)
        assert_nothing_is_held(reader)


@pytest.fixture(scope="module")
def one_head(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Which two ranks both hold."""
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"), num_key_value_heads=1)


@pytest.fixture(scope="module")
def keeper(one_head: ModelFiles) -> Iterator[EngineCore]:
    with engine_of(one_head, "kv_producer", **SHARES_CACHE) as engine:
        yield engine


def test_each_rank_moves_its_own_heads(tmp_path: Path) -> None:
    """Though a step's tokens are shared."""
    files = make_tiny_model("llama", tmp_path)
    shared = {"compilation_config": {"pass_config": {"enable_sp": True}}}
    with engine_of(files, "kv_producer", shared) as keeper, engine_of(files, "kv_consumer", shared) as reader:
        assert_moved(keeper, reader)


def test_each_rank_moves_its_own_tokens(one_head: ModelFiles, keeper: EngineCore) -> None:
    with engine_of(one_head, "kv_consumer", **SHARES_CACHE) as reader:
        assert_moved(keeper, reader)


def test_ranks_that_deal_tokens_out_otherwise_read_nothing(one_head: ModelFiles, keeper: EngineCore) -> None:
    with engine_of(one_head, "kv_consumer", **SHARES_CACHE | {"cp_kv_cache_interleave_size": 4}) as reader:
        _, kept = answered(keeper, with_transfer(request("kept", LONG, max_tokens=1), KVTransfer(keeps=True)))
        _, last = answered(reader, with_transfer(request("kept", LONG), KVTransfer(source=kept.kv_source)))
        assert last.error is not None
        assert "--cp-kv-cache-interleave-size differs: 2 at the prefill server, 4 at the decode server" in last.error
        assert_nothing_is_held(reader)


STAGES = {"pipeline_parallel_size": 2}


@dataclass
class Announced:
    """A prompt that a keeper computes while a reader reads it; both are stepped here, in turn."""

    keeper: EngineCore
    reader: EngineCore
    prompt: list[int]
    deltas: list[TokenDelta] = field(default_factory=list)

    def begin(self, name: str) -> None:
        """Until the reader has been told of it; the keeper computes a part of the prompt."""
        found: list[TokenDelta] = []
        self.keeper.emit_early(lambda output: found.extend(output.deltas))
        self.keeper.add_request(with_transfer(request(name, self.prompt, max_tokens=1), KVTransfer(keeps=True, announces=True)))
        while not found:
            self.keeper.step()
        self.reader.add_request(with_transfer(request(name, self.prompt, max_tokens=6), KVTransfer(source=found[0].kv_source)))

    def is_read(self) -> bool:
        """Steps the reader alone: the prompt does not become whole."""
        self.deltas += self.reader.step().deltas
        self.keeper.settle()
        (prompt,) = self.keeper._transfers[0]._kept._prompts.values()  # type: ignore[index, attr-defined]
        return prompt.is_claimed

    def finish(self) -> TokenDelta:
        """Returns the reader's last word."""

        def has_ended() -> bool:
            if self.keeper.has_work:
                self.keeper.step()
            self.keeper.settle()
            self.deltas += self.reader.step().deltas
            return bool(self.deltas) and self.deltas[-1].finish_reason is not None

        wait_until(has_ended)
        return self.deltas[-1]


def test_each_stage_moves_its_own_layers_until_a_rank_is_killed(tmp_path: Path) -> None:
    """Kept, or announced and read while stages compute several parts of the prompt. What is kept for a reader that dies is freed, once."""
    files = make_tiny_model("llama", tmp_path)
    with engine_of(files, "kv_producer", **STAGES) as keeper, engine_of(files, "kv_consumer", **STAGES) as reader:
        assert_moved(keeper, reader)
        both = Announced(keeper, reader, [1, *LONG])
        both.begin("announced")
        last = both.finish()
        assert last.error is None
        assert last.num_fetched_tokens == len(both.prompt) - 1
        found = [token for delta in both.deltas for token in delta.token_ids]
        assert found == answered(keeper, request("alone", both.prompt, max_tokens=6))[0]
        assert_nothing_is_held(keeper)
        assert_nothing_is_held(reader)
        both = Announced(keeper, reader, [2, *LONG])
        both.begin("its reader dies")
        wait_until(both.is_read)
        os.kill(pids_of(reader)[0], signal.SIGKILL)
        with pytest.raises(RankDied, match=r"^rank 1 was killed"):
            wait_until(reader.settle)
        reader.shutdown()
        while keeper.has_work:
            keeper.step()
        assert_nothing_is_held(keeper)
