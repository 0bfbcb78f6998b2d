"""Plain weights rounded to few bits as they are loaded, each to the nearest: no data is looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from headway.kernels.hadamard import spread_blocks
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import WeightScheme

_ELEMENTS_A_PIECE = 1 << 17  # temporaries in fp32 stay near a core's cache, and small beside a tensor
_MAX_FP8 = 448.0
# Of a group's range, as much is cut off at either end as leaves the smallest squared error: it makes all other steps finer. Of normally
# distributed weights that takes a twentieth of the error in groups of 128 (2026-11).
_CUTS = (0.0, 0.03, 0.06, 0.09)


def round_weight(weight: Tensor, scheme: WeightScheme, block: int = 1) -> QuantizedValues:
    """weight [N, K], any float dtype, strides and device -> the values that ``scheme`` keeps. Each row depends on itself alone.

    ``block``: so many columns are first spread over one another, see kernels/hadamard.py.
    """
    if scheme.is_float:
        round_rows: Callable[[Tensor], tuple[Tensor, ...]] = _to_fp8
    elif scheme.bits == 8:
        round_rows = _to_int8
    else:
        round_rows = partial(_to_int4, group_size=scheme.group_size)
    whole: list[Tensor] = []  # values, scales, zero points
    count = max(_ELEMENTS_A_PIECE // weight.shape[1], 1)
    for first in range(0, len(weight), count):
        parts = round_rows(spread_blocks(weight[first : first + count].float(), block))
        whole = whole or [part.new_empty((len(weight), *part.shape[1:])) for part in parts]
        for target, part in zip(whole, parts, strict=True):
            target[first : first + count] = part
    values, scale, *zeros = whole
    return QuantizedValues(values, scale, zeros[0] if zeros else None, scheme.group_size)


def _to_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3, the largest of a row at its end (Micikevicius et al., arXiv:2209.05433)."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-10) / _MAX_FP8
    return (rows / scale).clamp_(-_MAX_FP8, _MAX_FP8).to(torch.float8_e4m3fn), scale


def _to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-10) / 127
    return (rows / scale).round_().to(torch.int8), scale


def _to_int4(rows: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A scale and a zero point a group, which lies between two steps where the smallest does. Both ends are numbers of fp16, in which
    scales and offsets are kept."""
    num_rows, num_columns = rows.shape
    missing = -num_columns % group_size
    # What pads the last group repeats its last column, and so changes no range.
    padded = torch.cat((rows, rows[:, -1:].expand(-1, missing)), dim=1) if missing else rows
    groups = padded.view(num_rows, -1, group_size)
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    found = [_in_16_steps(groups, low + cut * (high - low), high - cut * (high - low)) for cut in _CUTS]
    best = torch.stack([(each.scale * (each.values - each.zero) - groups).square_().sum(dim=2) for each in found]).argmin(dim=0)

    def chosen(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).gather(0, best[None, :, :, None].expand(1, *parts[0].shape))[0]

    values = chosen([each.values for each in found]).to(torch.uint8).view(num_rows, -1)[:, :num_columns].contiguous()
    return values, chosen([each.scale for each in found])[..., 0], chosen([each.zero for each in found])[..., 0]


class _Steps(NamedTuple):
    values: Tensor  # [N, G, columns of a group] fp32, 0 to 15
    scale: Tensor  # [N, G, 1] fp32, as zero
    zero: Tensor


def _in_16_steps(groups: Tensor, low: Tensor, high: Tensor) -> _Steps:
    """From ``low`` to ``high``. One number alone is kept as itself."""
    offset = low.half().float()
    scale = ((high - offset) / 15).half().float()
    scale = torch.where(scale > 0, scale, torch.where(offset == 0, 1, offset.abs()))
    zero = -offset / scale
    return _Steps((groups / scale).add_(zero).round_().clamp_(0, 15), scale, zero)
