"""What Python and torch cost in a decode step on a CPU: `python benchmarks/dispatch.py`.

The engine alone, in this process and one thread: the share of a step's CPU time that is not spent in the compiled kernels, by the number
of requests that decode together. The thread's own clock is read, which waiting for other processes does not change (sharing a core or its
caches with them does); reading it around each kernel costs the rest about a microsecond a call.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from headway.kernels import cpu
from headway.kernels.cpu.native import library
from headway.server.bench.machine import describe_machine
from headway.server.config.server import ServerConfig
from headway.server.engine.build import build_engine
from headway.server.engine.core import EngineCore
from headway.server.garbage import spare_long_lived
from headway.server.source.cache import cache_directory
from headway.server.source.resolve import resolve_model
from headway.server.types import GenerateRequest, SamplingParams


class KernelClock:
    """CPU seconds of this thread in compiled kernels, from those on that are looked up after it was put in."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._timed: dict[Any, Callable[..., Any]] = {}

    def put_in(self) -> None:
        """In the place where each operation's module looks its kernel up."""
        for module in pkgutil.iter_modules(cpu.__path__, f"{cpu.__name__}."):
            operation = import_module(module.name)
            if getattr(operation, "function", None) is library.function:
                setattr(operation, "function", self._find)  # noqa: B010  # mypy knows no such attribute of a module

    def _find(self, *which: Any) -> Callable[..., Any] | None:
        kernel = library.function(*which)
        if kernel is None:
            return None
        if which not in self._timed:
            self._timed[which] = self._around(kernel)
        return self._timed[which]

    def _around(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.thread_time()
            result = kernel(*arguments)
            self.spent_s += time.thread_time() - begin
            return result

        return timed


@dataclass(frozen=True, slots=True)
class Step:
    cpu_s: float
    kernels_s: float

    @property
    def rest_s(self) -> float:
        return self.cpu_s - self.kernels_s

    @property
    def share(self) -> float:
        return self.rest_s / self.cpu_s


class Driver:
    def __init__(self, options: argparse.Namespace, clock: KernelClock) -> None:
        self._options = options
        self._clock = clock
        files = resolve_model(options.model, cache_dir=cache_directory(os.environ))
        self._max_tokens = options.steps + max(options.rows) + 64  # those that begin first decode meanwhile
        model = {"model": options.model, "device": "cpu", "max_model_len": options.input_len + self._max_tokens}
        self._core: EngineCore = build_engine(ServerConfig.model_validate({"model": model}), files)
        self._rng = random.Random(0)
        self._ids = count()

    def decode(self, num_rows: int) -> list[Step]:
        """Steps in which so many requests get a token each, and nothing else happens."""
        options, core = self._options, self._core
        sampling = SamplingParams(max_tokens=self._max_tokens, temperature=0.0, ignore_eos=True)
        for _ in range(num_rows):
            prompt = [self._rng.randrange(core.info.vocab_size) for _ in range(options.input_len)]
            core.add_request(GenerateRequest(f"r{next(self._ids)}", prompt, sampling, time.time()))
        begun = set[str]()
        while len(begun) < num_rows:
            begun |= {delta.request_id for delta in core.step().deltas if delta.token_ids}
        steps = [self._step() for _ in range(options.steps)]
        core.abort_all()
        while core.has_work:
            core.step()
        return steps

    def _step(self) -> Step:
        self._clock.spent_s, begin = 0.0, time.thread_time()
        self._core.step()
        return Step(time.thread_time() - begin, self._clock.spent_s)


def _line(num_rows: int, steps: list[Step]) -> list[str]:
    rest = [step.rest_s * 1e3 for step in steps]
    step, kernels = (statistics.median(getattr(each, part) for each in steps) * 1e3 for part in ("cpu_s", "kernels_s"))
    share = statistics.median(each.share for each in steps)
    return [str(num_rows), f"{step:.2f}", f"{kernels:.2f}", f"{statistics.median(rest):.2f}", f"{min(rest):.2f}", f"{share:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="requests that decode together")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = KernelClock()
    clock.put_in()
    driver = Driver(options, clock)
    spare_long_lived()
    driver.decode(max(options.rows))
    table = Table(title="CPU time of a decode step, ms: medians, and the least of the rest", title_justify="left")
    for name in ("rows", "step", "compiled kernels", "rest", "least rest", "share of the rest"):
        table.add_column(name, justify="right")
    for num_rows in options.rows:
        table.add_row(*_line(num_rows, [step for _ in range(options.rounds) for step in driver.decode(num_rows)]))
    console = Console()
    console.print(table)
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()))


if __name__ == "__main__":
    main()
