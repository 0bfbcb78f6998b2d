"""Low-rank adapters on an embedding in Triton: one launch, whatever adapters the step's tokens have.

Tokens are sorted and cut into tiles as for a linear layer (headway.kernels.gpu.lora). A's rows are gathered by token where the product
with B needs them: they are a few numbers each, so that every program of a tile reads them anew.
"""

# mypy: allow-incomplete-defs

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.backend import is_interpreting
from headway.kernels.gpu.lora import BLOCK_N, add_to_rows, blocks, ranks_on_device, tile_tokens
from headway.kernels.plans import LoraPlan


@triton.jit
def embedding_lora_kernel(
    out_ptr,
    ids_ptr,
    a_ptr,
    b_ptr,
    tokens_ptr,
    tiles_ptr,
    ranks_ptr,
    out_stride,
    a_stride_slot,
    a_stride_id,
    a_stride_rank,
    b_stride_slot,
    b_stride_n,
    b_stride_rank,
    num_ids,
    out_features,
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
    _, token, in_tile = tile_tokens(tiles_ptr + 3 * tile, tokens_ptr, BLOCK_M)
    token_id = tl.load(ids_ptr + token, mask=in_tile, other=-1)
    is_here = (token_id >= 0) & (token_id < num_ids)
    a_rows = a_ptr + slot * a_stride_slot + token_id[:, None] * a_stride_id
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_out = n < out_features
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first_r in range(0, rank, BLOCK_R):
        r = first_r + tl.arange(0, BLOCK_R)
        in_rank = r < rank
        small = tl.load(a_rows + r[None, :] * a_stride_rank, mask=is_here[:, None] & in_rank[None, :], other=0.0)
        b_rows = b_ptr + slot * b_stride_slot + n[:, None] * b_stride_n
        b = tl.load(b_rows + r[None, :] * b_stride_rank, mask=in_out[:, None] & in_rank[None, :], other=0.0)
        if UPCAST:
            small, b = small.to(tl.float32), b.to(tl.float32)
        acc = tl.dot(small, tl.trans(b), acc, input_precision="ieee")
    add_to_rows(out_ptr + token[:, None] * out_stride + n[None, :], acc, in_tile[:, None] & in_out[None, :])


def add_embedding_lora(out: Tensor, token_ids: Tensor, a: Tensor, b: Tensor, ranks: Sequence[int], plan: LoraPlan) -> None:
    """See headway.kernels.embedding_lora.add_embedding_lora. Each token is in one tile, so nothing is added atomically."""
    tiles = plan.tiles
    assert tiles is not None, "a plan is for the device that it was prepared for"
    if not out.shape[1] or not any(ranks[slot] for slot in tiles.slots):
        return
    block_r, _ = blocks(a.shape[2], out.dtype)
    embedding_lora_kernel[(tiles.tiles.shape[0], triton.cdiv(out.shape[1], BLOCK_N))](
        out,
        token_ids,
        a,
        b,
        tiles.tokens,
        tiles.tiles,
        ranks_on_device(tuple(ranks), out.device),
        out.stride(0),
        *a.stride(),
        *b.stride(),
        a.shape[1],
        out.shape[1],
        BLOCK_M=tiles.block_m,
        BLOCK_R=block_r,
        BLOCK_N=BLOCK_N,
        UPCAST=is_interpreting(),
        num_warps=4,
        num_stages=2,
    )
