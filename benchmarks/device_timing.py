"""How long work takes on a device, and what the device can do at best: the two numbers that a kernel is held against.

On a GPU calls are captured into a CUDA graph and its replays timed with events, so that launching costs what it costs in the engine. Calls
rotate over several input sets where real inputs come from memory: one set alone would stay in the L2 cache.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from headway.kernels.quant_matmul import int8_linear, pack_int8

Call = Callable[[], object]

CPU_CACHE_BYTES = 32 << 20  # the last level of most; where it is larger some of what is read a second time is in it
_MAX_SETS = 24
_PASS_S = 4e-3  # of work that a graph holds, as counted with its launches
_MAX_CAPTURED = 200
_NUM_REPLAYS = 7
_CPU_PASS_S, _CPU_REPEATS = 0.02, 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device reached in this run: bytes a second, and operations a second by the arithmetic's name."""

    copy: float  # bytes read and bytes written, of a copy within the device's memory
    read: float  # of a sum
    rates: dict[str, float]
    errors: dict[str, str] = field(default_factory=dict)  # arithmetic that could not be measured, and why

    def bound_s(self, num_bytes: float, flops: float, arithmetic: str) -> float:
        """No version takes less: every byte once at the speed of a copy, every operation at the rate of a large product."""
        rate = self.rates.get(arithmetic, 0.0)
        return max(num_bytes / self.copy, flops / rate if rate else 0.0)


def num_input_sets(device: torch.device, num_bytes: int) -> int:
    """So many that what one call reads has left the cache when its turn comes again."""
    return max(1, min(_MAX_SETS, math.ceil(3 * cache_bytes(device) / max(num_bytes, 1))))


def cache_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def seconds_a_call(device: torch.device, calls: Sequence[Call], *, is_capturable: bool = True) -> float:
    """The median over several rounds. ``calls`` are the same work on different inputs; each runs at least once before it is timed."""
    for call in calls:
        call()
    if device.type != "cuda":
        return _cpu_seconds(calls)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    _run(calls, 1)
    torch.cuda.synchronize(device)
    estimate = time.perf_counter() - started
    passes = max(1, min(math.ceil(_PASS_S / estimate), _MAX_CAPTURED // len(calls)))
    replay = _captured(calls, passes) if is_capturable else lambda: _run(calls, passes)
    return _event_seconds(replay) / (passes * len(calls))


def measure_limits(device: torch.device, arithmetics: Sequence[str]) -> Limits:
    """Large copies, sums and matrix products of torch, in ``arithmetics`` of "fp32", "bf16", "fp8" and "int8"."""
    copy, read = _bandwidths(device)
    edge = 8192 if device.type == "cuda" else 1024
    rates: dict[str, float] = {}
    errors: dict[str, str] = {}
    for name in arithmetics:
        try:
            rates[name] = 2 * edge**3 / seconds_a_call(device, [_square_product(name, edge, device)])
        except (RuntimeError, NotImplementedError) as cause:
            errors[name] = str(cause).split("\n")[0]
    return Limits(copy, read, rates, errors)


def _bandwidths(device: torch.device) -> tuple[float, float]:
    size = 1 << 30 if device.type == "cuda" else 1 << 27
    source = torch.empty(size // 4, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    # Not from a graph: there copies are done by the copy engines, on an H200 at 2.8 TB/s where the multiprocessors reach 4.2 (2026-11).
    copy = 2 * size / seconds_a_call(device, [lambda: target.copy_(source)], is_capturable=False)
    return copy, size / seconds_a_call(device, [source.sum])


def _square_product(arithmetic: str, edge: int, device: torch.device) -> Call:
    if arithmetic == "int8" and device.type != "cuda":  # torch's own is plain loops there
        packed, x = pack_int8(torch.randn(edge, edge)), torch.randn(edge, edge)
        return lambda: int8_linear(x, packed)
    if arithmetic == "int8":
        a, b = (torch.randint(-127, 128, (edge, edge), dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(a, b.t())
    dtype = {"fp32": torch.float32}.get(arithmetic, torch.bfloat16)
    x, w = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    if arithmetic == "fp8":
        one = torch.ones((), device=device)
        x8, w8 = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
        return lambda: torch._scaled_mm(x8, w8.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    return lambda: torch.mm(x, w.t())


def _run(calls: Sequence[Call], passes: int) -> None:
    for _ in range(passes):
        for call in calls:
            call()


def _captured(calls: Sequence[Call], passes: int) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _run(calls, passes)
    return graph.replay


def _event_seconds(replay: Callable[[], None]) -> float:
    """The first replay of a round keeps the device busy until the second is launched, which is the one that is timed."""
    times: list[float] = []
    for _ in range(_NUM_REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        replay()
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _cpu_seconds(calls: Sequence[Call]) -> float:
    times: list[float] = []
    limit = time.perf_counter() + _CPU_PASS_S
    while len(times) < _CPU_REPEATS or time.perf_counter() < limit:
        started = time.perf_counter()
        _run(calls, 1)
        times.append((time.perf_counter() - started) / len(calls))
    return statistics.median(times)
