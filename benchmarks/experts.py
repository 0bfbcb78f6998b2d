"""The grouped product of a mixture of experts, each part alone: `python benchmarks/experts.py`.

Prints the time of routing and of the product, with weights of every kind, beside two bounds measured in the same run: what reading the
weights of the experts in use takes at the copy bandwidth, and what the operations take at the rate of a large matrix product (twice as
high for 8-bit ones, of activations that are rounded). Needs a GPU for figures that mean anything; `--shape tiny --device cpu` shows that it
runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from device_timing import measure_limits, num_input_sets, seconds_a_call
from rich.console import Console
from rich.table import Table
from torch import Tensor

from headway.kernels.expert_weights import ExpertWeights, Fp8Experts, Int4Experts, Int8Experts, Mxfp4Experts
from headway.kernels.grouped_layout import GROUP
from headway.kernels.moe import moe, route_tokens


@dataclass(frozen=True)
class Shape:
    num_experts: int
    top_k: int
    hidden_size: int
    intermediate_size: int


SHAPES = {
    "mixtral-8x7b": Shape(8, 2, 4096, 14336),
    "qwen3-30b-a3b": Shape(128, 8, 2048, 768),
    "gpt-oss-20b": Shape(32, 4, 2880, 2880),
    "tiny": Shape(4, 2, 64, 32),
}
GROUP_SIZE = 64  # of 4 bits, as --quantization int4 has them


@dataclass(frozen=True)
class Format:
    """``draw``: random experts [E, N, K] for a device; ``speed``: of its operations, where plain ones are 1."""

    draw: Callable[[int, int, int, torch.device], ExpertWeights]
    speed: int = 1


def _bits(device: torch.device, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def _small(device: torch.device, *shape: int) -> Tensor:
    return torch.rand(shape, device=device) / 256


def _plain(num_experts: int, n: int, k: int, device: torch.device) -> Tensor:
    return torch.randn(num_experts, n, k, device=device, dtype=_dtype(device)) / k**0.5


def _fp8(num_experts: int, n: int, k: int, device: torch.device) -> ExpertWeights:
    values = torch.randn(num_experts, n, k, device=device, dtype=_dtype(device)).to(torch.float8_e4m3fn)
    return Fp8Experts(values, _small(device, num_experts, n), rounds_input=True)


def _fp8_blocks(num_experts: int, n: int, k: int, device: torch.device) -> ExpertWeights:
    values = torch.randn(num_experts, n, k, device=device, dtype=_dtype(device)).to(torch.float8_e4m3fn)
    return Fp8Experts(values, _small(device, num_experts, -(-n // 128), -(-k // 128)), rounds_input=True)


def _int8(num_experts: int, n: int, k: int, device: torch.device) -> ExpertWeights:
    return Int8Experts(_bits(device, num_experts, n, k).view(torch.int8), _small(device, num_experts, n))


def _groups(bits: int, size: int) -> Callable[[int, int, int, torch.device], ExpertWeights]:
    """``size`` columns of a group, and of half of a chunk."""

    def draw(num_experts: int, n: int, k: int, device: torch.device) -> ExpertWeights:
        scale = _small(device, num_experts, -(-k // size), n).half()
        weight = _bits(device, num_experts, n, -(-k // (2 * size)) * size * bits // 4)
        return Int4Experts(weight, scale, -(2 ** (bits - 1)) * scale, None, k, size, size, bits)

    return draw


def _mxfp4(num_experts: int, n: int, k: int, device: torch.device) -> ExpertWeights:
    scale = torch.full((num_experts, -(-k // 32), n), 120, dtype=torch.uint8, device=device)
    return Mxfp4Experts(_bits(device, num_experts, n, -(-k // 64) * 32), scale, k)


FORMATS = {
    "plain": Format(_plain),
    "fp8": Format(_fp8, speed=2),
    "fp8-blocks": Format(_fp8_blocks, speed=2),
    "int8": Format(_int8, speed=2),
    "int4": Format(_groups(4, GROUP_SIZE)),
    "gguf-4": Format(_groups(4, GROUP)),
    "gguf-8": Format(_groups(8, GROUP)),
    "mxfp4": Format(_mxfp4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given more than once (all but tiny)")
    parser.add_argument("--format", choices=FORMATS, action="append", help="of the weights; may be given more than once (all)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 256, 4096])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    arithmetic = "bf16" if device.type == "cuda" else "fp32"
    limits = measure_limits(device, (arithmetic,))
    bandwidth, rate = limits.copy, limits.rates[arithmetic]
    title = f"copy {bandwidth / 1e9:.0f} GB/s, {arithmetic} {rate / 1e12:.2f} TFLOP/s"
    table = Table("shape", "tokens", "weights", "route us", "product us", "of its bound", title=title)
    for name, kind in product(arguments.shape or [name for name in SHAPES if name != "tiny"], arguments.format or FORMATS):
        shape, form = SHAPES[name], FORMATS[kind]
        if kind == "fp8-blocks" and shape.intermediate_size % 128:
            continue  # a block would have rows of gate and up
        num_experts, hidden, inner = shape.num_experts, shape.hidden_size, shape.intermediate_size
        gate_up, down = form.draw(num_experts, 2 * inner, hidden, device), form.draw(num_experts, hidden, inner, device)
        num_bytes = _expert_bytes(gate_up, down)
        for count in arguments.tokens:
            route_s, product_s, num_used = _measure(shape, count, gate_up, down, device)
            operations = 6 * hidden * inner * count * shape.top_k
            bound_s = max(num_used * num_bytes / bandwidth, operations / (form.speed * rate))
            table.add_row(name, str(count), kind, f"{route_s * 1e6:.1f}", f"{product_s * 1e6:.1f}", f"{bound_s / product_s:.0%}")
    Console().print(table)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _expert_bytes(gate_up: ExpertWeights, down: ExpertWeights) -> float:
    return (_num_bytes(gate_up) + _num_bytes(down)) / gate_up.shape[0]


def _num_bytes(weights: ExpertWeights) -> int:
    return weights.nbytes if isinstance(weights, Tensor) else sum(tensor.nbytes for tensor in weights.tensors())


def _measure(shape: Shape, count: int, gate_up: ExpertWeights, down: ExpertWeights, device: torch.device) -> tuple[float, float, float]:
    """(seconds of routing, seconds of the product, number of experts in use)."""
    num_bytes = min(count * shape.top_k, shape.num_experts) * _expert_bytes(gate_up, down)
    inputs = []
    for _ in range(num_input_sets(device, int(num_bytes))):
        logits = torch.randn(count, shape.num_experts, device=device, dtype=_dtype(device))
        weights, experts = route_tokens(logits, shape.top_k, scoring="softmax", renormalise=True)
        inputs.append((torch.randn(count, shape.hidden_size, device=device, dtype=_dtype(device)), logits, weights, experts))
    routes = [partial(route_tokens, logits, shape.top_k, scoring="softmax", renormalise=True) for _, logits, _, _ in inputs]
    products = [partial(moe, x, gate_up, down, weights, experts) for x, _, weights, experts in inputs]
    num_used = statistics.mean(len(experts.unique()) for _, _, _, experts in inputs)
    return seconds_a_call(device, routes), seconds_a_call(device, products), num_used


if __name__ == "__main__":
    main()
