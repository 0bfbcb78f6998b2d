"""The engine's sleep over a real tiny model: what is open goes on as its mode says, and greedy output is the same before and after."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import add_adapter, make_engine, request, run
from msgspec.structs import replace
from tiny_adapters import EVERYTHING, make_adapter
from tiny_models import make_tiny_model

from headway.server.engine.core import EngineCore
from headway.server.errors import AdapterError, ModelSourceError, SleepConflict
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, FinishReason, GenerateRequest, SleepMode, SleepState, TokenDelta

PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 30, 14))]
AWAKE = SleepState()
Answers = list[Exception | None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), seed=1)


@pytest.fixture
def engine(files: ModelFiles) -> Iterator[EngineCore]:
    yield from make(files)


def make(files: ModelFiles, **topics: Any) -> Iterator[EngineCore]:
    built = make_engine(files, model={"max_model_len": 64}, cache={"num_gpu_blocks_override": 64, "block_size": 4}, **topics)
    yield built
    built.shutdown()


def asks(**sampling: Any) -> list[GenerateRequest]:
    return [request(f"r{i}", prompt, **{"max_tokens": 12, "ignore_eos": True, **sampling}) for i, prompt in enumerate(PROMPTS)]


def expected(engine: EngineCore, **sampling: Any) -> dict[str, list[int]]:
    return {name: output.token_ids for name, output in run(engine, asks(**sampling)).items()}


class Watch:
    """The engine's loop, as engine/process.py turns it: what came of each request, and how the sleep's state went."""

    def __init__(self, engine: EngineCore) -> None:
        self.engine = engine
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, TokenDelta] = {}
        self.states: list[SleepState] = []
        self.stats = engine.stats()  # as they were last told
        engine.watch_sleep(self.states.append)

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            for delta in self._step():
                assert delta.request_id not in self.ends, "nothing may follow the terminal delta"
                self.tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
                if delta.finish_reason is not None:
                    self.ends[delta.request_id] = delta
            self.engine.settle()

    def _step(self) -> list[TokenDelta]:
        if not self.engine.has_work:
            return []
        output = self.engine.step()
        self.stats = output.stats
        return output.deltas

    def finish(self) -> None:
        while self.engine.has_work:
            self.turn()
        self.engine.check_idle()

    @property
    def reasons(self) -> dict[str, FinishReason | None]:
        return {name: end.finish_reason for name, end in self.ends.items()}

    def sleep(self, level: int, mode: SleepMode = "abort") -> Answers:
        answers: Answers = []
        self.engine.sleep(level, mode, answers.append)
        self.turn(2)
        return answers


@pytest.mark.parametrize("level", [0, 1, 2])
def test_output_is_the_same_after_waking(engine: EngineCore, level: int) -> None:
    before = expected(engine)
    watch = Watch(engine)
    assert watch.sleep(level) == [None]
    assert watch.states[-1] == SleepState(level, ("weights", "kv_cache") if level else ("scheduling",))
    engine.wake_up(None)
    assert watch.states[-1] == AWAKE
    outputs = run(engine, asks())
    assert {name: output.token_ids for name, output in outputs.items()} == before
    found = [output.num_cached_tokens for output in outputs.values()]
    assert all(found) if level == 0 else not any(found), "the prefix cache is gone with its blocks"


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 7, "presence_penalty": 1.0}], ids=["greedy", "drawn"])
def test_kept_requests_go_on_where_they_were(engine: EngineCore, level: int, sampling: dict[str, Any]) -> None:
    before = expected(engine, **sampling)
    watch = Watch(engine)
    for one in asks(**sampling):
        engine.add_request(one)
    watch.turn(4)
    assert watch.sleep(level, "keep") == [None]
    assert not engine.has_work, "an engine that sleeps must not spin"
    assert watch.tokens
    assert not watch.ends
    engine.add_request(request("late", [9, 8], max_tokens=2, ignore_eos=True))
    watch.turn()
    told = watch.stats
    assert (told.num_running, told.num_waiting) == ((3, 1) if level == 0 else (0, 4)), "what waits is told without a step"
    assert told.last_step_tokens == 0, "a step is told once"
    engine.wake_up(None)
    watch.finish()
    assert {name: watch.tokens[name] for name in before} == before
    assert set(watch.reasons.values()) == {FinishReason.LENGTH}
    assert "late" in watch.ends


@pytest.mark.parametrize("level", [0, 1])
def test_abort_ends_what_is_open(engine: EngineCore, level: int) -> None:
    watch = Watch(engine)
    for one in asks():
        engine.add_request(one)
    watch.turn(2)
    assert watch.sleep(level, "abort") == [None]
    watch.finish()
    assert watch.reasons == {f"r{i}": FinishReason.ABORT for i in range(3)}
    assert engine.stats().num_blocks_used == 0


@pytest.mark.parametrize("level", [0, 1])
def test_wait_lets_finish_what_was_open_before(files: ModelFiles, level: int) -> None:
    for engine in make(files, network={"shutdown_timeout": 60}):
        before = expected(engine)
        watch = Watch(engine)
        for one in asks():
            engine.add_request(one)
        watch.turn(2)
        answers = watch.sleep(level, "wait")
        assert not answers
        assert watch.states == [SleepState(level)]
        assert watch.states[0].refuses_requests == bool(level)
        assert not watch.states[0].is_asleep
        engine.add_request(request("late", [5], max_tokens=1))
        watch.finish()
        assert answers == [None]
        assert {name: watch.tokens[name] for name in before} == before
        assert ("late" in watch.ends) == bool(level)
        if level:
            assert "asleep at level 1" in str(watch.ends["late"].error)
        engine.wake_up(None)
        watch.finish()
        assert watch.reasons["late"] == (FinishReason.ERROR if level else FinishReason.LENGTH)


def test_wait_has_an_end(files: ModelFiles) -> None:
    for engine in make(files, network={"shutdown_timeout": 0}):
        watch = Watch(engine)
        engine.add_request(request("long", [5], max_tokens=50, ignore_eos=True))
        watch.turn()
        assert watch.sleep(1, "wait") == [None]
        watch.finish()
        assert watch.reasons == {"long": FinishReason.ABORT}


def test_a_wake_ends_the_way_to_sleep(files: ModelFiles) -> None:
    for engine in make(files, network={"shutdown_timeout": 60}):
        watch = Watch(engine)
        engine.add_request(request("long", [5], max_tokens=50, ignore_eos=True))
        watch.turn()
        answers = watch.sleep(0, "wait")
        engine.add_request(request("late", [6], max_tokens=1, ignore_eos=True))
        (second,) = watch.sleep(1, "abort")
        assert isinstance(second, SleepConflict)
        assert not answers
        engine.wake_up(None)
        (answer,) = answers
        assert isinstance(answer, SleepConflict)
        assert watch.states[-1] == AWAKE
        watch.finish()
        assert watch.reasons == {"long": FinishReason.LENGTH, "late": FinishReason.LENGTH}


def test_sleeping_and_waking_twice(engine: EngineCore) -> None:
    before = expected(engine)
    watch = Watch(engine)
    assert watch.sleep(1) == watch.sleep(1) == [None]
    (conflict,) = watch.sleep(2)
    assert isinstance(conflict, SleepConflict)
    assert watch.states[-1].level == 1
    engine.wake_up(None)
    engine.wake_up(None)
    assert expected(engine) == before


def test_a_pause_may_become_a_sleep(engine: EngineCore) -> None:
    before = expected(engine)
    watch = Watch(engine)
    for one in asks():
        engine.add_request(one)
    watch.turn(3)
    watch.sleep(0, "keep")
    (conflict,) = watch.sleep(1, "wait")
    assert isinstance(conflict, SleepConflict)
    assert watch.sleep(2, "keep") == [None]
    engine.wake_up(None)
    watch.finish()
    assert {name: watch.tokens[name] for name in before} == before


def test_parts_are_woken_one_by_one(engine: EngineCore) -> None:
    before = expected(engine)
    watch = Watch(engine)
    watch.sleep(2, "keep")
    for one in asks():
        engine.add_request(one)
    engine.wake_up(["scheduling"])
    assert watch.states[-1].parts == ("weights", "kv_cache")
    engine.wake_up(["kv_cache"])
    assert watch.states[-1] == SleepState(2, ("weights",))
    watch.turn()
    assert not engine.has_work
    assert watch.sleep(2, "keep") == [None]
    engine.wake_up(["weights"])
    assert watch.states[-1] == SleepState(2, ("kv_cache",))
    engine.wake_up(["kv_cache"])
    assert watch.states[-1] == AWAKE
    watch.finish()
    assert watch.tokens == before


def test_what_is_held_can_be_aborted(engine: EngineCore) -> None:
    watch = Watch(engine)
    watch.sleep(0)
    engine.add_request(request("one", [5], max_tokens=3))
    engine.add_request(request("two", [5], max_tokens=3))
    engine.abort(["one", "unknown"])
    watch.finish()
    assert watch.reasons == {"one": FinishReason.ABORT}
    engine.abort_all()  # the server stops
    watch.finish()
    assert watch.reasons == {"one": FinishReason.ABORT, "two": FinishReason.ABORT}


def test_a_refusal_is_not_kept_back_by_a_sleep(engine: EngineCore) -> None:
    watch = Watch(engine)
    engine.add_request(request("too long", [5] * 65, max_tokens=1))
    watch.sleep(0, "keep")
    assert watch.reasons == {"too long": FinishReason.ERROR}


def test_adapters_come_back(files: ModelFiles, tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "a", read_config(files), targets=EVERYTHING)
    adapted = [replace(one, adapter_id=1) for one in asks()]
    for engine in make(files, lora={"enable_lora": True, "max_loras": 2}):
        add_adapter(engine, AdapterRef(1, "a", str(path)))
        plain, before = expected(engine), {name: output.token_ids for name, output in run(engine, adapted).items()}
        assert before != plain
        (path / "adapter_model.safetensors").unlink()  # its files may be gone by then
        Watch(engine).sleep(2)
        with pytest.raises(AdapterError, match="asleep"):
            add_adapter(engine, AdapterRef(2, "b", str(path)))
        engine.wake_up(None)
        assert {name: output.token_ids for name, output in run(engine, adapted).items()} == before
        assert expected(engine) == plain


def test_a_wake_that_fails_can_be_repeated(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path, seed=1)
    for engine in make(files):
        before = expected(engine)
        watch = Watch(engine)
        watch.sleep(2)
        (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
        with pytest.raises(ModelSourceError, match="it needs model"):
            engine.wake_up(None)
        assert watch.states[-1] == SleepState(2, ("weights", "kv_cache"))
        (tmp_path / "elsewhere").rename(tmp_path / "model.safetensors")
        engine.wake_up(None)
        assert expected(engine) == before


def test_another_model_in_the_same_place_is_refused(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    for engine in make(files):
        Watch(engine).sleep(2)
        make_tiny_model("llama", tmp_path, num_hidden_layers=2)
        with pytest.raises(ModelSourceError, match="have changed"):
            engine.wake_up(None)


def test_a_sleep_that_fails_changes_nothing(engine: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = expected(engine)
    watch = Watch(engine)
    for one in asks():
        engine.add_request(one)
    watch.turn(2)

    def no_room(level: int) -> None:
        raise MemoryError("no room on the host")

    monkeypatch.setattr(engine._executor, "sleep", no_room)
    (problem,) = watch.sleep(1, "keep")
    assert isinstance(problem, MemoryError)
    assert watch.states[-1] == AWAKE
    watch.finish()
    assert watch.tokens == before


def test_resetting_the_prefix_cache_says_whether_all_of_it_is_gone(engine: EngineCore) -> None:
    before = expected(engine)
    watch = Watch(engine)
    assert engine.reset_prefix_cache(preempt_running=False)
    assert not any(output.num_cached_tokens for output in run(engine, asks()).values())
    for one in asks():
        engine.add_request(one)
    watch.turn(3)
    assert not engine.reset_prefix_cache(preempt_running=False)
    assert engine.reset_prefix_cache(preempt_running=True)
    watch.finish()
    assert watch.tokens == before
    assert all(end.times is not None and end.times.num_preemptions == 1 for end in watch.ends.values())


def test_memory_is_given_back(tmp_path: Path) -> None:
    """Of 96 MiB of weights and a cache of 64 MiB that has been written to, in a process that has done nothing else."""
    support = Path(__file__).resolve().parents[1] / "support"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(support.parents[1] / "src"), str(support)])}
    command = [sys.executable, str(support / "sleep_memory.py"), str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    sizes = json.loads(done.stdout)
    weights, cache, awake = sizes["weights"], sizes["cache"], sizes["awake"]
    assert weights > 80 * 2**20
    assert awake - sizes["asleep_1"] > 0.8 * cache
    assert awake - sizes["asleep_2"] > 0.8 * (weights + cache)
    assert sizes["woken"] < awake + 0.3 * weights
