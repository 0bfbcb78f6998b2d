"""Low-rank adapters in Triton: one launch to shrink and one to expand, whatever adapters the step's tokens have.

Tokens are sorted by slot once a step and cut into tiles of one slot each. Shrinking a few tokens has little to share out but the
input's columns, so these are split over programs; expanding adds the parts up. (The grouping is that of Punica, arXiv:2310.18547)
"""

# mypy: allow-incomplete-defs

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.device import num_multiprocessors
from headway.kernels.plans import LoraPlan, LoraTiles
from headway.kernels.reference import lora as reference

BLOCK_N = 64
MAX_BLOCK_R = 64
MAX_SPLITS = 16  # an estimate: not yet measured on a GPU


@triton.jit
def tile_tokens(tile_ptr, tokens_ptr, BLOCK_M: tl.constexpr):
    """(places [BLOCK_M] among the sorted tokens, the tokens there, whether they are the tile's) of a tile (slot, first, end)."""
    row = (tl.load(tile_ptr + 1) + tl.arange(0, BLOCK_M)).to(tl.int64)
    in_tile = row < tl.load(tile_ptr + 2)
    token = tl.load(tokens_ptr + row, mask=in_tile, other=0).to(tl.int64)
    return row, token, in_tile


@triton.jit
def add_to_rows(out, acc, mask):
    """Adds in fp32 to what stands at ``out``."""
    value = tl.load(out, mask=mask, other=0.0).to(tl.float32) + acc
    tl.store(out, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def shrink_kernel(
    x_ptr,
    a_ptr,
    parts_ptr,
    tokens_ptr,
    tiles_ptr,
    ranks_ptr,
    x_stride_token,
    x_stride_k,
    a_stride_slot,
    a_stride_rank,
    a_stride_k,
    parts_stride_split,
    parts_stride_row,
    in_features,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(2).to(tl.int64)
    slot = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    if slot < 0:
        return
    rank = tl.load(ranks_ptr + slot)
    first_r = tl.program_id(1) * BLOCK_R
    if first_r >= rank:
        return
    row, token, in_tile = tile_tokens(tiles_ptr + 3 * tile, tokens_ptr, BLOCK_M)
    r = first_r + tl.arange(0, BLOCK_R)
    x_rows = x_ptr + token[:, None] * x_stride_token
    a_rows = a_ptr + slot * a_stride_slot + r[:, None].to(tl.int64) * a_stride_rank
    part = tl.cdiv(tl.cdiv(in_features, NUM_SPLITS), BLOCK_K) * BLOCK_K
    begin = split.to(tl.int32) * part
    acc = tl.zeros([BLOCK_M, BLOCK_R], dtype=tl.float32)
    for start in range(begin, tl.minimum(begin + part, in_features), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_row = k < in_features
        x = tl.load(x_rows + k[None, :] * x_stride_k, mask=in_tile[:, None] & in_row[None, :], other=0.0)
        a = tl.load(a_rows + k[None, :] * a_stride_k, mask=(r < rank)[:, None] & in_row[None, :], other=0.0)
        if UPCAST:
            x, a = x.to(tl.float32), a.to(tl.float32)
        acc = tl.dot(x, tl.trans(a), acc, input_precision="ieee")
    out = parts_ptr + split * parts_stride_split + row[:, None] * parts_stride_row + r[None, :]
    tl.store(out, acc, mask=in_tile[:, None] & (r < rank)[None, :])


@triton.jit
def expand_kernel(
    out_ptr,
    b_ptr,
    parts_ptr,
    tokens_ptr,
    tiles_ptr,
    ranks_ptr,
    out_stride,
    b_stride_slot,
    b_stride_n,
    b_stride_rank,
    parts_stride_split,
    parts_stride_row,
    out_features,
    NUM_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tile = tl.program_id(0)
    slot = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    if slot < 0:
        return
    rank = tl.load(ranks_ptr + slot)
    if rank == 0:
        return
    row, token, in_tile = tile_tokens(tiles_ptr + 3 * tile, tokens_ptr, BLOCK_M)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_out = n < out_features
    dtype = out_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first_r in range(0, rank, BLOCK_R):
        r = first_r + tl.arange(0, BLOCK_R)
        in_rank = r < rank
        parts = parts_ptr + row[:, None] * parts_stride_row + r[None, :]
        small = tl.zeros([BLOCK_M, BLOCK_R], dtype=tl.float32)
        for split in range(NUM_SPLITS):
            small += tl.load(parts + split * parts_stride_split, mask=in_tile[:, None] & in_rank[None, :], other=0.0)
        b_rows = b_ptr + slot * b_stride_slot + n[:, None] * b_stride_n
        b = tl.load(b_rows + r[None, :] * b_stride_rank, mask=in_out[:, None] & in_rank[None, :], other=0.0)
        small = small.to(dtype)  # as the reference rounds between its two products
        if UPCAST:
            small, b = small.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(small, tl.trans(b), acc, input_precision="ieee")
    add_to_rows(out_ptr + token[:, None] * out_stride + n[None, :], acc, in_tile[:, None] & in_out[None, :])


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.lora.add_lora. Each token is in one tile, so nothing is added atomically: results do not vary.

    A CUDA graph of this keeps the ranks and the number of tiles that it was captured with; tiles of slot -1 fill up a shorter plan.
    """
    tiles = plan.tiles
    assert tiles is not None, "a plan is for the device that it was prepared for"
    largest_rank = max((ranks[slot] for slot in tiles.slots), default=0)
    num_tiles, num_rows = tiles.tiles.shape[0], tiles.tokens.shape[0]
    if largest_rank == 0 or out.shape[1] == 0:
        return
    max_rank, in_features = a.shape[1:]
    block_r, block_k = blocks(max_rank, x.dtype)
    num_blocks_r = triton.cdiv(largest_rank, block_r)
    num_splits = choose_num_splits(num_tiles * num_blocks_r, in_features, block_k, num_multiprocessors(x.device))
    parts = torch.empty((num_splits, num_rows, max_rank), dtype=torch.float32, device=x.device)
    where = (tiles.tokens, tiles.tiles, ranks_on_device(tuple(ranks), x.device))
    sizes = {"NUM_SPLITS": num_splits, "BLOCK_M": tiles.block_m, "BLOCK_R": block_r, "UPCAST": is_interpreting()}
    shrink_kernel[(num_tiles, num_blocks_r, num_splits)](
        x, a, parts, *where, *x.stride(), *a.stride(), *parts.stride()[:2], in_features, **sizes, BLOCK_K=block_k, num_warps=4, num_stages=3
    )
    expand_kernel[(num_tiles, triton.cdiv(out.shape[1], BLOCK_N))](
        out,
        b,
        parts,
        *where,
        out.stride(0),
        *b.stride(),
        *parts.stride()[:2],
        out.shape[1],
        **sizes,
        BLOCK_N=BLOCK_N,
        num_warps=4,
        num_stages=2,
    )


def prepare_lora(token_slots: Tensor, device: torch.device) -> LoraPlan:
    """See headway.kernels.lora.prepare_lora. One asynchronous copy to the device."""
    order = torch.argsort(token_slots, stable=True)
    slots, counts = torch.unique_consecutive(token_slots[order], return_counts=True)
    groups = list(zip(slots.tolist(), counts.tolist(), strict=True))
    first = 0
    if groups and groups[0][0] < 0:
        first = groups.pop(0)[1]
    num_tokens = len(order) - first
    tile = block_m(max((count for _, count in groups), default=0))
    tiles, begin = [], 0
    for slot, count in groups:
        end = begin + count
        tiles += [(slot, start, min(start + tile, end)) for start in range(begin, end, tile)]
        begin = end
    table = torch.tensor(tiles, dtype=torch.int32).flatten()
    packed = torch.cat([order[first:].to(torch.int32), table])
    if device.type == "cuda":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return LoraPlan((), LoraTiles(packed[:num_tokens], packed[num_tokens:].view(-1, 3), tuple(slot for slot, _ in groups), tile))


def lora_slots(num_slots: int, max_rank: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """See headway.kernels.lora.lora_slots."""
    return reference.lora_slots(num_slots, max_rank, shape, dtype, device)


def block_m(most_tokens: int) -> int:
    """Tokens a tile, by those of the largest group: small tiles for decode, large ones for prompts."""
    return 16 if most_tokens <= 32 else 64


def blocks(max_rank: int, dtype: torch.dtype) -> tuple[int, int]:
    """Ranks a tile, and the bytes of input a step of the sum: three stages of 64 rows of each stay under 99 KiB."""
    return min(max(16, triton.next_power_of_2(max_rank)), MAX_BLOCK_R), 256 // dtype.itemsize


def choose_num_splits(num_programs: int, in_features: int, block_k: int, num_multiprocessors: int) -> int:
    """How many programs share the columns of the input: a program a multiprocessor, none with less than two steps."""
    wanted = triton.cdiv(num_multiprocessors, num_programs)
    return max(1, min(int(wanted), in_features // (2 * block_k), MAX_SPLITS))


@functools.lru_cache(maxsize=1024)
def ranks_on_device(ranks: tuple[int, ...], device: torch.device) -> Tensor:
    """[S] int32. Most layers have the same ranks, and these change only when an adapter is loaded, so they are copied once."""
    return torch.tensor(ranks, dtype=torch.int32, device=device)
