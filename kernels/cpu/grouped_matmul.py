"""Product of grouped weights in the compiled kernels, which read the weights as they are kept; in plain torch without them.

native/README.md has what was measured.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.cpu.native.library import GroupedWeight, function
from headway.kernels.grouped_layout import GROUP, TILE, GroupedValues
from headway.kernels.reference import grouped_matmul as reference

_ELEMENTS_A_PIECE = 1 << 18  # of temporaries while rows are put into tiles


@dataclass(frozen=True, slots=True)
class Tiles:
    """For the compiled kernels: see native/grouped.h."""

    blocks: Tensor  # uint8, flat
    out_features: int
    num_groups: int  # of a row
    bits: int
    described: GroupedWeight  # points into ``blocks``


def empty_grouped(num_rows: int, num_columns: int, bits: int) -> tuple[Tiles | Tensor, int]:
    """See headway.kernels.reference.grouped_matmul.empty_grouped."""
    if function("grouped_linear", torch.float32) is None:
        return reference.empty_grouped(num_rows, num_columns, bits)
    num_groups = -(-num_columns // GROUP)
    blocks = torch.empty(-(-num_rows // TILE) * num_groups * _block_bytes(bits), dtype=torch.uint8)
    return Tiles(blocks, num_rows, num_groups, bits, GroupedWeight(blocks.data_ptr(), num_columns, num_rows, bits)), blocks.nbytes


def put_rows(data: Tiles | Tensor, first: int, rows: GroupedValues) -> None:
    """See headway.kernels.reference.grouped_matmul.put_rows. ``first`` is that of a tile, and so is what follows, or the end."""
    if not isinstance(data, Tiles):
        reference.put_rows(data, first, rows)
        return
    tiles = data.blocks.view(-1, data.num_groups, _block_bytes(data.bits))
    num_rows = rows.shape[0]
    step = max(_ELEMENTS_A_PIECE // (TILE * GROUP * data.num_groups), 1) * TILE
    for start in range(0, num_rows, step):
        piece = rows.narrow(0, start, min(step, num_rows - start))
        tile = (first + start) // TILE
        _fill(tiles[tile : tile - (-piece.shape[0] // TILE)], piece, data.bits)


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
    tiles = torch.empty(-(-num_rows // TILE), -(-num_columns // GROUP), _block_bytes(weight.bits), dtype=torch.uint8)
    _fill(tiles, weight, weight.bits)
    return tiles.flatten()


def _block_bytes(bits: int) -> int:
    """Of a group of a tile: scales and offsets in fp16, and the values."""
    return TILE * (4 + GROUP * bits // 8)


def _fill(tiles: Tensor, rows: GroupedValues, bits: int) -> None:
    num_rows, num_columns = rows.shape
    num_tiles, num_groups, _ = tiles.shape
    missing_rows = num_tiles * TILE - num_rows

    def halves(part: Tensor) -> Tensor:  # [tiles, groups, 32 bytes]
        padded = torch.nn.functional.pad(part, (0, 0, 0, missing_rows)).view(num_tiles, TILE, num_groups)
        return padded.transpose(1, 2).contiguous().view(torch.uint8)

    padded = torch.nn.functional.pad(rows.values, (0, num_groups * GROUP - num_columns, 0, missing_rows))
    quads = padded.view(num_tiles, TILE, num_groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)  # [tiles, groups, 8, 16, 4]
    if bits == 4:
        quads = quads[:, :, :4] | quads[:, :, 4:] << 4
    tiles[:, :, : 2 * TILE] = halves(rows.scale)
    tiles[:, :, 2 * TILE : 4 * TILE] = halves(rows.offset)
    tiles[:, :, 4 * TILE :] = quads.reshape(num_tiles, num_groups, -1)
