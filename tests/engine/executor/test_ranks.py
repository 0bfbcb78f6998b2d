"""What the engine hears of ranks that end, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from polling import wait_until
from process_tree import is_running
from tiny_models import make_tiny_model

from headway.server.config.plan import DeviceFacts, ModelFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import PeerLost
from headway.server.distributed.places import RankPlace
from headway.server.distributed.rendezvous import join_ranks
from headway.server.engine.executor.rank_messages import Done, Here, Join, RankArguments, Sized, Start
from headway.server.engine.executor.rank_process import RankProcess
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.kv.shared_cache import SharedCache
from headway.server.errors import ModelSourceError, RankDied
from headway.server.source.files import ModelFiles

MODEL = {"model": "m", "device": "cpu", "dtype": "float32", "max_model_len": 64}
FACTS = DeviceFacts("cpu", "cpu", 2**34, 2**33, False, True)
PLAN = make_plan(ServerConfig.model_validate({"model": MODEL}), ModelFacts("float32", 64, False), FACTS)


@contextmanager
def ranks_of(files: ModelFiles, directory: Path, size: int) -> Iterator[Ranks]:
    config = ServerConfig.model_validate({"model": MODEL, "parallel": {"tensor_parallel_size": size}})
    ranks = Ranks([RankProcess(RankArguments(config, files, 0, rank, directory)) for rank in range(1, size)])
    try:
        yield ranks
    finally:
        pids = ranks.pids
        ranks.end(patience_s=0)
        assert not any(is_running(pid) for pid in pids)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return make_tiny_model("llama", tmp_path / "model")


def test_who_starts_a_rank_does_without_torch() -> None:
    """A rank watches for the engine's end before it begins to import it, and so does the actor that Ray has on its host."""
    parts = "headway.server.engine.executor"
    code = f"import sys, {parts}.rank_entry, {parts}.over_ray.host; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def joined(ranks: Ranks, directory: Path, size: int) -> list[Sized]:
    """As an engine does it that is made."""
    with ranks.explaining():
        assert ranks.answers(Here) == [Here()] * (size - 1)
        ranks.tell(Join(PLAN, 259, 1))
        ranks.give_groups(join_ranks(directory, RankPlace(0, size), torch.device("cpu")))
        return ranks.answers(Sized)


def test_where_a_rank_is_and_what_it_is_called(tmp_path: Path) -> None:
    """The GPUs of an engine's ranks stand side by side, behind those of the engines before it."""
    topics = {"data_parallel": {"data_parallel_size": 3}, "parallel": {"tensor_parallel_size": 2}}
    config, files = ServerConfig.model_validate({"model": MODEL, **topics}), ModelFiles("safetensors", tmp_path, None, "m")
    ranks = [RankArguments(config, files, engine, 1, tmp_path) for engine in range(3)]
    assert [(rank.device_index, rank.role) for rank in ranks] == [(1, "engine-0 rank 1"), (3, "engine-1 rank 1"), (5, "engine-2 rank 1")]
    assert [config.parallel.gpu_index(engine) for engine in range(3)] == [0, 2, 4]


def test_a_model_that_only_another_rank_can_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by one that was started where a file has the name of a module. It may have ended before this one has met it."""
    (tmp_path / "queue.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    missing = ModelFiles("safetensors", tmp_path / "nothing", None, "m")
    with ranks_of(missing, tmp_path, 2) as ranks:
        with pytest.raises(ModelSourceError, match="nothing"):
            joined(ranks, tmp_path, 2)
        with pytest.raises(ModelSourceError, match="nothing"):
            ranks.check()


def test_a_rank_that_breaks_says_why(files: ModelFiles, tmp_path: Path) -> None:
    """It is told to start with a number of blocks that no memory has."""
    with ranks_of(files, tmp_path, 2) as ranks:
        (sized,) = joined(ranks, tmp_path, 2)
        assert sized.num_blocks > 0
        ranks.tell(Start(SharedCache(2**60, 1), 64))
        with pytest.raises(RankDied, match=r"^rank 1 ended: .*"):
            ranks.answers(Done)


def test_the_first_cause_is_the_rank_that_ended_not_the_one_that_lost_it(files: ModelFiles, tmp_path: Path) -> None:
    with ranks_of(files, tmp_path, 3) as ranks:
        ranks.answers(Here)
        os.kill(ranks.pids[1], signal.SIGKILL)
        with pytest.raises(RankDied, match=r"^rank 2 was killed \(SIGKILL\)"), ranks.explaining():
            raise PeerLost("Connection closed by peer")
        wait_until(lambda: not is_running(ranks.pids[1]))


def test_a_rank_that_ends_before_the_ranks_have_met(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of who never comes is not the cause."""
    monkeypatch.setattr("headway.server.distributed.rendezvous._PATIENCE", timedelta(seconds=0.5))
    with ranks_of(files, tmp_path, 2) as ranks:
        ranks.answers(Here)  # it waits to be told to join
        os.kill(ranks.pids[0], signal.SIGKILL)
        with pytest.raises(RankDied, match=r"^rank 1 was killed \(SIGKILL\)") as caught, ranks.explaining():
            join_ranks(tmp_path, RankPlace(0, 2), torch.device("cpu"))
        assert isinstance(caught.value.__context__, PeerLost)


def test_errors_of_rank_0_are_its_own() -> None:
    ranks = Ranks([])
    with pytest.raises(ZeroDivisionError), ranks.explaining():
        raise ZeroDivisionError
    ranks.check()
    failure = ranks.fail("the ranks differ")
    with pytest.raises(RankDied, match="differ"):
        ranks.check()
    assert str(failure) == "the ranks differ"
    ranks.end()
