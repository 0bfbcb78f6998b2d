"""The tiles of prefill attention, chosen by chip and pages.

Measured on an H200 on 2026-11-27 (torch 2.11, Triton 3.6), bf16, 32 and 8 heads of 128, a prompt of 8192 tokens, us. Queries and heads x
keys, warps, stages:

                                           64x64, 4, 2   64x64, 4, 3   128x64, 8, 3   128x128, 8, 2   128x128, 8, 3
    addresses made of every key's place           1511          1425           1391            1335               -
    of what differs between tiles                 1593          1327           1259            1302            1158
    the same, window of 1024                       431           416            402             459             434

1158 us are 475 TFLOP/s; torch's own attention, without pages, took 902. With strides counted in units, in a CUDA graph, the product
takes 1119 (491 TFLOP/s), and 359 with the window. Tiles of int8 and fp8 pages were chosen by registers, not by time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.gpu.paged_attention import block_n as decode_block_n


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program works on at a time, and how it is compiled."""

    block_m: int  # pairs of query and head
    block_n: int  # keys
    num_warps: int
    num_stages: int


def tile_of(block_d: int, dtype: torch.dtype, pages: torch.dtype, *, has_warpgroups: bool, is_bare: bool) -> Tile:
    """As large as the registers and the shared memory allow. ``is_bare``: no window and no soft cap.

    Products by warpgroups, Hopper's, read keys and values from shared memory for 64 lines at a time. There two warpgroups share a tile of
    keys, and three tiles are under way, so that a tile has as long to arrive as another takes. 128 keys need all registers, and with a
    window would mostly be hidden; with int8 pages and their scales more than 64 spill. Without warpgroups 64 keys spill.
    """
    if block_d * dtype.itemsize > 256:
        return Tile(32, decode_block_n(block_d, dtype), num_warps=4, num_stages=2)
    if not has_warpgroups:
        return Tile(64, 32, num_warps=4, num_stages=2)
    if pages == torch.int8:
        return Tile(128, 64 if is_bare else 32, num_warps=8, num_stages=2)
    return Tile(128, 128 if is_bare and pages == dtype else 64, num_warps=8, num_stages=3)


def stride_unit(*caches: Tensor) -> int:
    """Elements that strides of blocks are counted in: 16 where a place in these caches then has 32 bits, else 1."""
    has_unit = all(cache.stride(0) % 16 == 0 and cache.shape[0] * cache.stride(0) < 16 * 2**31 for cache in caches)
    return 16 if has_unit else 1
