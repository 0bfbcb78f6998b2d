"""The grouped product of a mixture of experts, each part alone: `python benchmarks/experts.py`.

Prints the time of routing and of the product beside two bounds measured in the same run: what reading the weights of the experts in use
takes at the copy bandwidth, and what the operations take at the rate of a large matrix product. Needs a GPU for figures that mean
anything; `--shape tiny --device cpu` shows that it runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from headway.kernels.moe import moe, route_tokens

REPEATS = 20


@dataclass(frozen=True)
class Shape:
    num_experts: int
    top_k: int
    hidden_size: int
    intermediate_size: int


SHAPES = {
    "mixtral-8x7b": Shape(8, 2, 4096, 14336),
    "qwen3-30b-a3b": Shape(128, 8, 2048, 768),
    "tiny": Shape(4, 2, 64, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given more than once (all but tiny)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 256, 4096])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bandwidth, rate = _copy_bandwidth(device), _matrix_rate(device, dtype)
    title = f"copy {bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.2f} TFLOP/s"
    table = Table("shape", "tokens", "route us", "product us", "of its bound", title=title)
    for name in arguments.shape or [name for name in SHAPES if name != "tiny"]:
        shape = SHAPES[name]
        gate_up, down = _experts(shape, device, dtype)
        for count in arguments.tokens:
            route_s, product_s, num_used = _measure(shape, count, gate_up, down)
            weights = 3 * shape.hidden_size * shape.intermediate_size
            bound_s = max(num_used * weights * dtype.itemsize / bandwidth, 2 * weights * count * shape.top_k / rate)
            table.add_row(name, str(count), f"{route_s * 1e6:.1f}", f"{product_s * 1e6:.1f}", f"{bound_s / product_s:.0%}")
    Console().print(table)


def _experts(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    num_experts, hidden, inner = shape.num_experts, shape.hidden_size, shape.intermediate_size
    gate_up = torch.randn(num_experts, 2 * inner, hidden, device=device, dtype=dtype) / hidden**0.5
    return gate_up, torch.randn(num_experts, hidden, inner, device=device, dtype=dtype) / inner**0.5


def _measure(shape: Shape, num_tokens: int, gate_up: Tensor, down: Tensor) -> tuple[float, float, int]:
    """(seconds of routing, seconds of the product, number of experts in use)."""
    x = torch.randn(num_tokens, shape.hidden_size, device=down.device, dtype=down.dtype)
    logits = torch.randn(num_tokens, shape.num_experts, device=down.device, dtype=down.dtype)

    def route() -> tuple[Tensor, Tensor]:
        return route_tokens(logits, shape.top_k, scoring="softmax", renormalise=True)

    weights, experts = route()
    product_s = _seconds(lambda: moe(x, gate_up, down, weights, experts), down.device)
    return _seconds(route, down.device), product_s, len(experts.unique())


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second."""
    source = torch.empty(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / _seconds(lambda: a @ b, device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of some calls, compiled before."""
    call()
    times = []
    for _ in range(REPEATS):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(200_000)  # the host is ahead: launches are not what is timed
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
