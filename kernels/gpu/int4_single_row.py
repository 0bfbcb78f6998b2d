"""One row times weights of 4 or 8 bits, without the matrix units: bound by reading the weight, as long as a weight takes few instructions.

A weight takes three: its bits are moved to where fp32 has the highest bits of a fraction, put into the fraction of 128, and multiplied
with its input; the 128 (of 8 bits 256) and the offset come off at the end of a group, by the sum of the inputs. Words of 8 weights, or of
4, are loaded, since bytes would be unpacked one by one.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.int4_layout import PackedInt4
from headway.kernels.tuned import Tiles


@triton.jit
def _plus_power(words, BIT: tl.constexpr, BITS: tl.constexpr):
    """128, or with 8 bits 256, + the ``BITS`` bits from ``BIT`` on, as fp32."""
    LOWEST: tl.constexpr = 16 if BITS == 4 else 15  # bit of the fraction that is worth 1
    moved = words << (LOWEST - BIT) if BIT <= LOWEST else words >> (BIT - LOWEST)
    return ((moved & (0xF0000 if BITS == 4 else 0x7F8000)) | (0x43000000 if BITS == 4 else 0x43800000)).to(tl.float32, bitcast=True)


@triton.jit
def int4_single_row_kernel(
    x_ptr,
    order_ptr,
    words_ptr,
    scale_ptr,
    offset_ptr,
    bias_ptr,
    out_ptr,
    out_features,
    in_features,
    num_chunks,
    group_size,
    x_stride_k,
    words_stride,
    HAS_ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HALF: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    # Here a chunk is what HALF bytes hold: of 4 bits two halves, the first in the low bits of bytes and the second in the high ones.
    WORDS: tl.constexpr = HALF // 4
    NUM_HALVES: tl.constexpr = 8 // BITS
    POWER: tl.constexpr = 128.0 if BITS == 4 else 256.0
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < out_features
    chunk, word = tl.arange(0, CHUNKS), tl.arange(0, WORDS)
    rows = words_ptr + n[:, None, None] * words_stride + chunk[None, :, None] * WORDS + word[None, None, :]
    acc = tl.zeros([BLOCK_N, CHUNKS], dtype=tl.float32)
    words = tl.load(rows, mask=in_n[:, None, None] & (chunk < num_chunks)[None, :, None], other=0)
    await_previous(IS_DEPENDENT)
    for start in range(0, num_chunks, CHUNKS):
        following = start + CHUNKS + chunk
        ahead = tl.load(rows + (start + CHUNKS) * WORDS, mask=in_n[:, None, None] & (following < num_chunks)[None, :, None], other=0)
        for high in tl.static_range(NUM_HALVES):
            first = (start + chunk) * NUM_HALVES * HALF + high * HALF
            sums = tl.zeros([BLOCK_N, CHUNKS, WORDS], dtype=tl.float32)
            inputs = tl.zeros([CHUNKS, WORDS], dtype=tl.float32)
            for byte in tl.static_range(4):
                k = first[:, None] + 4 * word[None, :] + byte
                in_k = k < in_features
                if HAS_ORDER:
                    k = tl.load(order_ptr + k, mask=in_k, other=0)
                x = tl.load(x_ptr + k * x_stride_k, mask=in_k, other=0.0).to(tl.float32)
                sums += _plus_power(words, 8 * byte + 4 * high, BITS) * x[None, :, :]
                inputs += x
            group = tl.minimum(first, in_features - 1) // group_size
            at = group[None, :] * out_features + n[:, None]
            scale = tl.load(scale_ptr + at, mask=in_n[:, None], other=0.0).to(tl.float32)
            offset = tl.load(offset_ptr + at, mask=in_n[:, None], other=0.0).to(tl.float32)
            acc += tl.sum(sums, axis=2) * scale + tl.sum(inputs, axis=1)[None, :] * (offset - POWER * scale)
        words = ahead
    value = tl.sum(acc, axis=1)
    if HAS_BIAS:
        value += tl.load(bias_ptr + n, mask=in_n, other=0.0).to(tl.float32)
    tl.store(out_ptr + n, value.to(out_ptr.dtype.element_ty), mask=in_n)


def int4_single_row(x: Tensor, packed: PackedInt4, bias: Tensor | None, tiles: Tiles) -> Tensor:
    """x [1, K] -> [1, N]: see headway.kernels.int4_matmul.int4_linear. ``tiles``: block_n rows of the weight by block_k columns, with
    8 bits half as many."""
    out = torch.empty((1, packed.out_features), dtype=x.dtype, device=x.device)
    words = packed.weight.view(torch.int32)
    int4_single_row_kernel[(triton.cdiv(packed.out_features, tiles.block_n),)](
        x,
        packed.weight if packed.order is None else packed.order,
        words,
        packed.scale,
        packed.offset,
        out if bias is None else bias,
        out,
        packed.out_features,
        packed.in_features,
        packed.weight.shape[1] // packed.half,
        packed.group_size,
        x.stride(1),
        words.stride(0),
        HAS_ORDER=packed.order is not None,
        HAS_BIAS=bias is not None,
        HALF=packed.half,
        BITS=packed.bits,
        BLOCK_N=tiles.block_n,
        CHUNKS=max(1, tiles.block_k // (2 * packed.half)),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x.device),
    )
    return out
