"""The matrix products of a layer with weights of every width, and the device's own product as their yardstick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from device_timing import Call
from kernel_case import Case, Shapes
from torch import Tensor

from headway.kernels.cpu import linear as cpu_linear
from headway.kernels.fp8_matmul import FP8, SCALE_BLOCK, fp8_linear
from headway.kernels.grouped_layout import GROUP
from headway.kernels.int4_layout import pack_int4
from headway.kernels.int4_matmul import int4_linear
from headway.kernels.linear import pack_linear, packed_linear
from headway.kernels.quant_matmul import int8_linear, pack_int8

GROUP_SIZE = 128


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of weight: ``draw`` makes a random one [N, K], ``call`` multiplies by it."""

    draw: Callable[[int, int, torch.dtype, torch.device], Any]
    call: Callable[[Tensor, Any], Tensor]
    weight_bytes: Callable[[int, int], float]
    arithmetic: str


def product_cases(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    forms = formats(shapes)
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        forms["linear (oneDNN)"] = Format(_draw_blocked, _times_blocked, forms["linear (packed)"].weight_bytes, shapes.arithmetic)
    for kernel, form in forms.items():
        for name, (n, k) in shapes.products.items():
            if name == "lm_head" and not kernel.startswith("linear"):
                continue  # the output is not quantised
            # The last few products would need the same weights drawn again: they are kept from one number of rows to the next.
            weights = lru_cache(maxsize=64)(lambda index, form=form, n=n, k=k: form.draw(n, k, shapes.dtype, device))
            for num_rows in shapes.num_rows:
                yield _case(shapes, kernel, form, name, num_rows, (n, k), weights, device)


def formats(shapes: Shapes) -> dict[str, Format]:
    width, plain = shapes.dtype.itemsize, shapes.arithmetic

    def dense(n: int, k: int) -> float:
        return n * k * width

    def bytes_each(n: int, k: int) -> float:
        return n * k + 4 * n

    return {
        "linear (torch)": Format(_draw_plain, torch.nn.functional.linear, dense, plain),
        "linear (packed)": Format(_draw_packed, packed_linear, dense, plain),
        "int8_linear": Format(_draw_int8, int8_linear, bytes_each, "int8"),
        "fp8_linear, tensor": Format(_draw_fp8("tensor"), _fp8, bytes_each, "fp8"),
        "fp8_linear, channel": Format(_draw_fp8("channel"), _fp8, bytes_each, "fp8"),
        "fp8_linear, block": Format(_draw_fp8("block"), _fp8, bytes_each, "fp8"),
        "int4_linear": Format(_draw_groups, int4_linear, lambda n, k: n * k / 2 + 2 * width * n * k / GROUP_SIZE, plain),
        **{f"int4_linear, GGUF of {bits} bits": _gguf(bits, plain) for bits in (4, 8)},
    }


def _gguf(bits: int, arithmetic: str) -> Format:
    """Groups of 32, scales and offsets in fp16."""
    draw = partial(_draw_groups, bits=bits, group_size=GROUP, scale_dtype=torch.float16)
    return Format(draw, int4_linear, lambda n, k: n * k * bits / 8 + 2 * 2 * n * k / GROUP, arithmetic)


def _case(
    shapes: Shapes,
    kernel: str,
    form: Format,
    name: str,
    num_rows: int,
    size: tuple[int, int],
    weights: Callable[[int], Any],
    device: torch.device,
) -> Case:
    n, k = size
    drawn = iter(range(1 << 30))

    def make() -> Call:
        weight = weights(next(drawn))
        x = torch.randn(num_rows, k, device=device, dtype=shapes.dtype)
        return lambda: form.call(x, weight)

    moved = round(form.weight_bytes(n, k)) + num_rows * (n + k) * shapes.dtype.itemsize
    return Case(kernel, f"{name} {num_rows}x{k} to {n}", moved, 2.0 * num_rows * n * k, make, form.arithmetic, is_cold=True)


def _draw_plain(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(n, k, device=device, dtype=dtype)


def _draw_packed(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Any:
    return pack_linear(_draw_plain(n, k, dtype, device))


def _draw_blocked(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """In oneDNN's own layout, which fp32 is no longer packed in where there are compiled kernels."""
    blocked: Tensor = torch.ops.mkldnn._reorder_linear_weight(_draw_plain(n, k, dtype, device), None)
    return blocked


def _times_blocked(x: Tensor, weight: Tensor) -> Tensor:
    return cpu_linear.packed_linear(x, weight, None)


def _draw_int8(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Any:
    return pack_int8(_draw_plain(n, k, dtype, device))


def _draw_fp8(scaled: str) -> Callable[[int, int, torch.dtype, torch.device], tuple[Tensor, Tensor]]:
    """``scaled`` is what shares a scale: the whole "tensor", a "channel" of the output, a "block" of 128 x 128."""

    def draw(n: int, k: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        shapes = {"tensor": (1,), "channel": (n,), "block": (-(-n // SCALE_BLOCK), -(-k // SCALE_BLOCK))}
        return _draw_plain(n, k, dtype, device).to(FP8), torch.rand(shapes[scaled], device=device) + 0.5

    return draw


def _fp8(x: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    return fp8_linear(x, *weight)


def _draw_groups(
    n: int,
    k: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    bits: int = 4,
    group_size: int = GROUP_SIZE,
    scale_dtype: torch.dtype | None = None,
) -> Any:
    values = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, device=device)
    size = min(group_size, k)
    scale = torch.rand(-(-k // size), n, device=device, dtype=scale_dtype or dtype) + 0.5
    return pack_int4(values, scale, -(2 ** (bits - 1)) * scale, size, bits=bits)
