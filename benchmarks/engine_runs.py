"""What benchmarks/gpu_engine.py has the engine do, and how it is timed: steps of running requests, prompts, and a crowd of requests."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from headway.server.bench.engine import EngineLoad
from headway.server.engine.core import EngineCore
from headway.server.types import GenerateRequest, SamplingParams

SETTLE_STEPS = 4  # after the last prompt: kernels of this batch size are compiled, steps overlap


@dataclass(frozen=True, slots=True)
class Kernels:
    """What ran on the device, by torch's profiler."""

    seconds: float  # of all kernels and copies together
    most: list[tuple[str, int, float]]  # (name, times, seconds), the longest first


@dataclass(frozen=True, slots=True)
class Steps:
    """Of requests that decode together. ``num_keys``: those that a step reads, of all rows, in the middle of the measurement."""

    seconds: float  # a step, by the clock
    num_keys: float
    kernels: Kernels | None  # of a step; None: no GPU, or nothing was recorded


class Driver:
    """Gives random prompts to an engine and steps it."""

    def __init__(self, core: EngineCore, device: torch.device, seed: int = 0) -> None:
        self.core = core
        self._device = device
        self._rng = random.Random(seed)
        self._names = (f"r{i}" for i in count())

    def decode(self, batch: int, context: int, num_steps: int, num_profiled: int) -> Steps:
        """Steps overlap, so ``num_steps`` are timed as a whole; then the kernels of ``num_profiled`` are recorded."""
        lengths = {}
        for request in self._requests(batch, context, self.core.info.max_model_len - context):
            self.core.add_request(request)
            lengths[request.request_id] = context
        while any(length == context for length in lengths.values()):
            self._step(lengths)
        for _ in range(SETTLE_STEPS):
            self._step(lengths)
        self._synchronize()
        num_before, started = sum(lengths.values()), time.perf_counter()
        for _ in range(num_steps):
            self._step(lengths)
        self._synchronize()
        seconds = (time.perf_counter() - started) / num_steps
        num_keys = (num_before + sum(lengths.values())) / 2
        kernels = self._profile(num_profiled, lengths) if self._device.type == "cuda" and num_profiled else None
        self.core.abort_all()
        self._finish()
        return Steps(seconds, num_keys, kernels)

    def prefill(self, num_tokens: int, repeats: int) -> float:
        """Median seconds from a prompt's arrival to its first token; the first prompt, which compiles kernels, is not counted."""
        times = []
        for request in self._requests(repeats + 1, num_tokens, 1):
            self._synchronize()
            started = time.perf_counter()
            self.core.add_request(request)
            self._finish()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def crowd(self, num_requests: int, num_input: int, num_output: int) -> float:
        """Seconds that as many requests take which all come at once. Raises RuntimeError if one failed."""
        load = EngineLoad(self.core, list(self._requests(num_requests, num_input, num_output)))
        self._synchronize()
        started = time.perf_counter()
        load.run(num_requests)
        seconds = time.perf_counter() - started
        errors = [outcome.error for outcome in load.outcomes.values() if outcome.error]
        if errors:
            raise RuntimeError(f"{len(errors)} requests failed, the first: {errors[0]}")
        return seconds

    def _requests(self, num: int, num_input: int, num_output: int) -> Iterator[GenerateRequest]:
        size = self.core.info.vocab_size
        for _ in range(num):
            prompt = [self._rng.randrange(size) for _ in range(num_input)]
            sampling = SamplingParams(max_tokens=num_output, temperature=0.0, ignore_eos=True)
            yield GenerateRequest(next(self._names), prompt, sampling, time.time())

    def _step(self, lengths: dict[str, int]) -> None:
        for delta in self.core.step().deltas:
            lengths[delta.request_id] += len(delta.token_ids)
            if delta.finish_reason is not None:
                raise RuntimeError(delta.error or "a request ended before it was measured: its context was too short")

    def _finish(self) -> None:
        while self.core.has_work:
            self.core.step()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _profile(self, num_steps: int, lengths: dict[str, int]) -> Kernels | None:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(num_steps):
                self._step(lengths)
            self._synchronize()
        found = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
        if not found:
            return None
        found.sort(key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in found)
        most = [(event.key, event.count, event.self_device_time_total / 1e6) for event in found]
        return Kernels(total / 1e6 / num_steps, most)
