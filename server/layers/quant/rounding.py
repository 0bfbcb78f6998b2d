"""Plain weights rounded to few bits as they are loaded, each to the nearest: no data is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import WeightScheme

_ELEMENTS_A_PIECE = 1 << 20  # temporaries in fp32 stay small beside a tensor, whatever its size
_MAX_FP8 = 448.0
# Of a group's range, as much is cut off at either end as leaves the smallest squared error: it makes all other steps finer. Of normally
# distributed weights that takes a twentieth of the error in groups of 128 (2026-11).
_CUTS = (0.0, 0.03, 0.06, 0.09)


def round_weight(weight: Tensor, scheme: WeightScheme) -> QuantizedValues:
    """weight [N, K], any float dtype, strides and device -> the values that ``scheme`` keeps. Each row depends on itself alone."""
    if scheme.is_float:
        round_rows: Callable[[Tensor], tuple[Tensor, ...]] = _to_fp8
    elif scheme.bits == 8:
        round_rows = _to_int8
    else:
        round_rows = partial(_to_int4, group_size=scheme.group_size)
    # As bytes: not every operator knows numbers of fp8.
    pieces = [round_rows(piece.float()) for piece in _pieces(weight)]
    values = torch.cat([piece[0].view(torch.uint8) for piece in pieces]).view(pieces[0][0].dtype)
    scale = torch.cat([piece[1] for piece in pieces])
    if scheme.bits == 8:
        return QuantizedValues(values, scale)
    return QuantizedValues(values, scale, torch.cat([piece[2] for piece in pieces]), scheme.group_size)


def _pieces(weight: Tensor) -> Iterator[Tensor]:
    """Of its rows, each a view."""
    count = max(_ELEMENTS_A_PIECE // weight.shape[1], 1)
    return (weight[first : first + count] for first in range(0, len(weight), count))


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
