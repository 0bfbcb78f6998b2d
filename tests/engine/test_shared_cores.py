"""How many threads compute a step where others use the cores, by a clock of the test's own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from engine_driver import Output, make_engine, request, run
from tiny_models import make_tiny_model

from headway.kernels.cpu.native.library import function
from headway.server.engine.shared_cores import SharedCores


class Machine:
    """``seconds``: of a step, by the number of threads. The thread that steps computes for ``busy`` of them."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.busy = seconds, 0.5
        self.used: list[int] = []
        self.now = self.cpu = 0.0
        self.cores = SharedCores(max(seconds), self.used.append, lambda: self.now, lambda: self.cpu)

    def steps(self, count: int, *, num_decodes: int = 8, num_tokens: int = 8) -> None:
        for _ in range(count):
            took = self.seconds[self.cores.num_threads]
            with self.cores.step(num_decodes, num_tokens):
                self.now += took
                self.cpu += took * self.busy


def test_nothing_changes_while_the_thread_has_its_core() -> None:
    machine = Machine({2: 0.010, 1: 0.001})
    machine.busy = 0.85
    machine.steps(1000)
    assert machine.used == []


def test_fewer_threads_where_others_have_the_cores(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine({4: 0.4, 2: 0.1, 1: 0.02})
    with caplog.at_level(logging.INFO):
        machine.steps(200)
    assert machine.used[:2] == [2, 1]
    assert (
        "Steps are computed by 2 threads of 4: other processes use the cores (a step takes 0.25 of the time that it took by 4)"
        in caplog.text
    )


def test_all_again_when_they_leave() -> None:
    machine = Machine({2: 0.2, 1: 0.02})
    machine.steps(50)
    assert machine.cores.num_threads == 1
    machine.seconds, machine.busy = {2: 0.011, 1: 0.02}, 1.0
    machine.steps(4000)
    assert machine.cores.num_threads == 2


def test_a_trial_that_finds_nothing_comes_ever_more_rarely() -> None:
    machine = Machine({2: 0.010, 1: 0.012})
    machine.steps(20_000)
    assert machine.cores.num_threads == 2
    assert machine.used[:2] == [1, 2]
    assert len(machine.used) < 2 * 12  # 200 s in all: after 1, 2, 4 ... 60 s


def test_a_trial_ends_with_its_first_bad_step() -> None:
    machine = Machine({2: 0.2, 1: 0.02})
    machine.steps(50)
    assert machine.used == [1]
    while len(machine.used) < 3:
        machine.steps(1)
        bad = machine.used[1:].count(2)
    assert machine.used == [1, 2, 1]
    assert bad == 1


def test_steps_behind_a_pause_are_not_looked_at_with_those_before() -> None:
    """Threads that slept are slow at first."""
    machine = Machine({2: 0.2, 1: 0.02})
    for _ in range(50):
        machine.steps(8)
        machine.now += 1
    assert machine.used == []
    machine.steps(20)
    assert machine.used == [1]


def test_steps_with_prompts_are_not_looked_at() -> None:
    machine = Machine({2: 0.2, 1: 0.02})
    machine.steps(100, num_decodes=3, num_tokens=300)
    machine.steps(100, num_decodes=0, num_tokens=300)
    assert machine.used == []


@pytest.mark.skipif(function("grouped_linear", torch.float32) is None, reason="the compiled kernels are not built")
def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path, hidden_size=256, intermediate_size=512)
    prompts = [list(range(3, 3 + length)) for length in (5, 90, 40)]

    def outputs(num_threads: int) -> dict[str, Output]:
        torch.set_num_threads(num_threads)
        engine = make_engine(
            files, model={"dtype": "auto", "quantization": "int4", "max_model_len": 512}, scheduler={"max_num_batched_tokens": 64}
        )
        return run(engine, [request(str(i), prompt, max_tokens=24, logprobs=5) for i, prompt in enumerate(prompts)])

    before = torch.get_num_threads()
    try:
        assert outputs(1) == outputs(2)
    finally:
        torch.set_num_threads(before)
