"""Product of grouped weights in the compiled kernels, which read the weights as they are kept; in plain torch without them.

native/README.md has what was measured.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import GroupedWeight, function
from headway.kernels.grouped_layout import GROUP, GroupedValues
from headway.kernels.reference import grouped_matmul as reference

_TILE = 16  # output channels side by side


@dataclass(frozen=True, slots=True)
class Tiles:
    """For the compiled kernels: see native/grouped.h."""

    blocks: Tensor  # uint8, flat
    out_features: int
    described: GroupedWeight  # points into ``blocks``


def pack_grouped(weight: GroupedValues) -> tuple[Tiles | Tensor, int]:
    """See headway.kernels.grouped_matmul.pack_grouped."""
    if function("grouped_linear", torch.float32) is None:
        return reference.pack_grouped(weight)
    blocks = tiled(weight)
    num_rows, num_columns = weight.shape
    return Tiles(blocks, num_rows, GroupedWeight(blocks.data_ptr(), num_columns, num_rows, weight.bits)), blocks.nbytes


def grouped_linear(x: Tensor, data: Tiles | Tensor, bias: Tensor | None) -> Tensor:
    """See headway.kernels.grouped_matmul.grouped_linear."""
    if not isinstance(data, Tiles):
        return reference.grouped_linear(x, data, bias)
    if x.stride(1) != 1:
        x = x.contiguous()
    out = torch.empty((x.shape[0], data.out_features))
    if out.numel():
        kernel = function("grouped_linear", torch.float32)
        assert kernel is not None, "tiles are made for it"
        kernel(
            out.data_ptr(),
            x.data_ptr(),
            ctypes.byref(data.described),
            None if bias is None else bias.data_ptr(),
            x.shape[0],
            x.stride(0),
        )
    return out


def tiled(weight: GroupedValues) -> Tensor:
    """Its bytes as native/grouped.h reads them, flat."""
    num_rows, num_columns = weight.shape
    num_tiles, num_groups = -(-num_rows // _TILE), -(-num_columns // GROUP)
    missing_rows = num_tiles * _TILE - num_rows

    def halves(part: Tensor) -> Tensor:  # [tiles, groups, 32 bytes]
        padded = torch.nn.functional.pad(part, (0, 0, 0, missing_rows)).view(num_tiles, _TILE, num_groups)
        return padded.transpose(1, 2).contiguous().view(torch.uint8)

    padded = torch.nn.functional.pad(weight.values, (0, num_groups * GROUP - num_columns, 0, missing_rows))
    quads = padded.view(num_tiles, _TILE, num_groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)  # [tiles, groups, 8, 16, 4]
    if weight.bits == 4:
        quads = quads[:, :, :4] | quads[:, :, 4:] << 4
    parts = (halves(weight.scale), halves(weight.offset), quads.reshape(num_tiles, num_groups, -1))
    return torch.cat(parts, dim=2).flatten()
