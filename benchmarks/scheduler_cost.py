"""What a step costs the scheduler, by requests that run and that wait: `python benchmarks/scheduler_cost.py --help`.

A step is schedule() and update() with one token for each running request, as in decode; nothing is computed. It has to grow with what
runs only. The collector of garbage is set as in the engine's process, and what it takes is in the figures.
"""

from __future__ import annotations

import argparse
import datetime
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway.server.bench.machine import describe_machine
from headway.server.counts import Counts
from headway.server.engine.admission import Admission
from headway.server.engine.batch import BatchPlan, BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.scheduler import Scheduler
from headway.server.engine.waiting import Policy
from headway.server.garbage import spare_long_lived
from headway.server.types import GenerateRequest, SamplingParams

RUNNING = (1, 4, 16, 64, 256, 1024)
WAITING = (0, 1_000, 10_000, 100_000)
POLICIES: tuple[Policy, ...] = ("fcfs", "priority")
_PROMPT = list(range(16))
_BLOCK_SIZE = 16
_NUM_CHANGED = 1_000  # requests that are aborted, or admitted
_MOST_GROWTH = 1.25  # more than what it scatters by


@dataclass(frozen=True, slots=True)
class Cell:
    """Microseconds of CPU: of a step, of adding and of aborting one request that waits."""

    policy: Policy
    num_running: int
    num_waiting: int
    step: float
    step_p99: float
    add: float
    abort: float


def measure(policy: Policy, num_running: int, num_waiting: int, num_steps: int) -> Cell:
    num_blocks = num_running * (2 + (len(_PROMPT) + num_steps) // _BLOCK_SIZE)
    scheduler = Scheduler(
        kv=KVCacheManager(num_blocks, _BLOCK_SIZE, enable_prefix_caching=True),
        max_num_batched_tokens=num_running * len(_PROMPT),
        max_num_seqs=num_running,
        max_model_len=num_blocks * _BLOCK_SIZE,
        policy=policy,
    )
    for number in range(num_running):
        scheduler.add(_request(number, priority=-1))
    _step(scheduler)
    rng = random.Random(0)
    arriving = [_request(num_running + number, priority=rng.randrange(8)) for number in range(num_waiting)]
    add_s = _seconds(lambda: [scheduler.add(request) for request in arriving])
    times = [_seconds(lambda: _step(scheduler)) for _ in range(num_steps)]
    stats = scheduler.stats()
    assert (stats.num_running, stats.num_waiting) == (num_running, num_waiting), "nobody ends and nobody is let in"
    leaving = rng.sample([request.request_id for request in arriving], min(_NUM_CHANGED, num_waiting))
    abort_s = _seconds(lambda: scheduler.abort(leaving))
    times.sort()
    return Cell(
        policy,
        num_running,
        num_waiting,
        statistics.median(times) * 1e6,
        times[len(times) * 99 // 100] * 1e6,
        add_s / max(num_waiting, 1) * 1e6,
        abort_s / max(len(leaving), 1) * 1e6,
    )


def admission_us(num_open: int) -> float:
    """What the API process counts for one request, from its admission to its end, while so many others are open."""
    admission = Admission(10 * max(WAITING), 100 * max(WAITING) * len(_PROMPT), Counts.alone())
    admission.admit([_request(number, priority=0) for number in range(num_open)])
    others = [_request(num_open + number, priority=0) for number in range(_NUM_CHANGED)]

    def live() -> None:
        for request in others:
            admission.check(1, 1)
            admission.admit([request])
            admission.on_tokens(request.request_id)
            admission.on_end(request.request_id)

    return _seconds(live) / _NUM_CHANGED * 1e6


def _request(number: int, priority: int) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=1_000_000, ignore_eos=True)
    return GenerateRequest(f"cmpl-{number:032x}-0", _PROMPT, sampling, time.time(), priority, queue_timeout_s=3600.0)


def _step(scheduler: Scheduler) -> None:
    plan = scheduler.schedule()
    assert plan is not None, "there is always something to do"
    scheduler.update(plan, _result(plan))


def _result(plan: BatchPlan) -> BatchResult:
    return BatchResult([RowResult([7]) for _ in plan.scheduled])


def _seconds(work: Callable[[], object]) -> float:
    """Of this thread's CPU: who else uses the machine does not show."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a step costs more because requests wait."""
    options = _parser().parse_args(argv)
    machine = describe_machine()
    print(f"{datetime.date.today()}, {machine['chip']}, Python {machine['python']}; {options.steps} steps each, CPU time\n")
    spare_long_lived()
    cells = [measure(policy, r, w, options.steps) for policy in POLICIES for w in WAITING for r in RUNNING]
    for policy in POLICIES:
        print(_table(policy, cells) + "\n")
    print("| open in the API process | admission of one request, µs |\n|---|---|")
    print("\n".join(f"| {num_open:,} | {admission_us(num_open):.1f} |" for num_open in WAITING))
    if options.plot is not None:
        _plot(cells, options.plot)
    growth = max(_growth(policy, cells) for policy in POLICIES)
    print(f"\nWith {max(WAITING):,} waiting a step costs {growth:.2f} times what it costs with none.")
    return 1 if growth > _MOST_GROWTH else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What a step costs the scheduler, by requests that run and that wait.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=200, help="of each combination")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the curves; needs matplotlib")
    return parser


def _growth(policy: Policy, cells: Sequence[Cell]) -> float:
    """Of a step with the most waiting over one with none, as a mean over all numbers of running requests."""
    steps = {(cell.num_running, cell.num_waiting): cell.step for cell in cells if cell.policy == policy}
    return statistics.geometric_mean(steps[running, max(WAITING)] / steps[running, 0] for running in RUNNING)


def _table(policy: Policy, cells: Sequence[Cell]) -> str:
    mine = [cell for cell in cells if cell.policy == policy]
    running = " | ".join(f"{r} running" for r in RUNNING)
    lines = [
        f"| {policy}: µs a step, median (p99) | {running} | add one, µs | abort one that waits, µs |",
        "|---" * (len(RUNNING) + 3) + "|",
    ]
    for num_waiting in WAITING:
        row = [cell for cell in mine if cell.num_waiting == num_waiting]
        steps = " | ".join(f"{cell.step:.0f} ({cell.step_p99:.0f})" for cell in row)
        changes = [statistics.median(values) for values in zip(*((cell.add, cell.abort) for cell in row), strict=True)]
        told = " | ".join(f"{value:.1f}" if num_waiting else "-" for value in changes)
        lines.append(f"| {num_waiting:,} waiting | {steps} | {told} |")
    return "\n".join(lines)


def _plot(cells: Sequence[Cell], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), dpi=90, layout="constrained")
    for axes, policy in zip(figure.subplots(1, 2, sharey=True), POLICIES, strict=True):
        for num_waiting, marker in zip(WAITING, "o^sx", strict=True):
            row = [cell for cell in cells if cell.policy == policy and cell.num_waiting == num_waiting]
            axes.plot([c.num_running for c in row], [c.step for c in row], marker=marker, alpha=0.7, label=f"{num_waiting:,} waiting")
        axes.set(xscale="log", yscale="log", xlabel="running requests", title=policy)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("schedule() + update(), µs of CPU a step")
    figure.axes[0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
