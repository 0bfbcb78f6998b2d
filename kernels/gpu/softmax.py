"""One step of the online softmax, shared by the attention kernels. (Dao et al. 2022, arXiv:2205.14135)"""

# mypy: allow-incomplete-defs

import triton
import triton.language as tl

from headway.kernels.gpu.functions import tanh

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def scores_log2(q, k, visible, scale, softcap, HAS_SOFTCAP: tl.constexpr, UPCAST: tl.constexpr):
    """q [M, D], k [N, D] -> cap(scale * q k^T) / ln 2, -inf where not ``visible`` [M, N]."""
    if UPCAST:
        q, k = q.to(tl.float32), k.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if HAS_SOFTCAP:
        scores = softcap * tanh(scores / softcap)
    return tl.where(visible, scores * LOG2_E, float("-inf"))


@triton.jit
def accumulate(scores, v, peak, total, acc, UPCAST: tl.constexpr):
    """Adds a tile of keys to the running peak [M], total [M] (of 2^(score - peak)) and weighted values acc [M, D]."""
    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    # A row that has seen no key yet has peak -inf; -inf - -inf would be NaN.
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weight = tl.exp2(scores - base[:, None])
    decay = tl.exp2(peak - base)
    total = total * decay + tl.sum(weight, axis=1)
    acc = acc * decay[:, None]
    if UPCAST:
        acc += tl.dot(weight, v.to(tl.float32), input_precision="ieee")
    else:
        acc += tl.dot(weight.to(v.dtype), v, input_precision="ieee")
    return new_peak, total, acc
