"""The online softmax, shared by the attention kernels. (Dao et al. 2022, arXiv:2205.14135)

Exponentials are of base 2 and the scale, above 0, is multiplied within them: ``2^(score * factor - peak)`` is one instruction to form.
"""

# mypy: allow-incomplete-defs

import triton
import triton.language as tl

from headway.kernels.gpu.functions import tanh

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def begin_softmax(sinks_ptr, head, mask, begins, HAS_SINKS: tl.constexpr, BLOCK_M: tl.constexpr):
    """(peak, total) [M] before the first key: nothing, or where ``begins`` the sink of each line's head."""
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks_ptr + head, mask=mask, other=0.0).to(tl.float32)
        peak = tl.where(begins, sink * LOG2_E, peak)
        total = tl.where(begins, 1.0, total)
    return peak, total


@triton.jit
def exponent_factor(scale, HAS_SOFTCAP: tl.constexpr):
    """What scores_of leaves to be multiplied."""
    return LOG2_E if HAS_SOFTCAP else scale * LOG2_E


@triton.jit
def scores_of(q, k, k_scales, scale, softcap, HAS_TOKEN_SCALES: tl.constexpr, HAS_SOFTCAP: tl.constexpr):
    """q [M, D], k [N, D] -> q k^T, or cap(scale * q k^T). Where there are ``k_scales`` [N], each key is multiplied by its own."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if HAS_TOKEN_SCALES:
        scores = scores * k_scales[None, :]
    if HAS_SOFTCAP:
        scores = softcap * tanh(scores * (scale / softcap))
    return scores


@triton.jit
def accumulate(scores, v, peak, total, acc, factor):
    """Adds a tile of keys to the running peak [M], total [M] (of 2^(score * factor - peak)) and weighted values acc [M, D].

    Hidden keys have a score of -inf.
    """
    new_peak = tl.maximum(peak, tl.max(scores, axis=1) * factor)
    # A row that has seen no key yet has peak -inf; -inf - -inf would be NaN.
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weight = tl.exp2(scores * factor - base[:, None])
    decay = tl.exp2(peak - base)
    total = total * decay + tl.sum(weight, axis=1)
    acc = tl.dot(weight.to(v.dtype), v, acc * decay[:, None], input_precision="ieee")
    return new_peak, total, acc


@triton.jit
def normalised(acc, total, v_scale):
    """The weighted mean of the values; 0 for a line that has seen no key."""
    return acc * (v_scale / tl.where(total > 0, total, 1.0))[:, None]
