"""Choosing tokens in Triton: two launches for rows that take the maximum and two more for those that are drawn, with no sort.

peaks      a program a row and block: the block's maximum and its place
finish     a program a row: the row's maximum, or BROKEN
weigh      a program a random row and block: how likely its tokens are, the sum of their weights, the row's histogram of them
draw       a program a random row: the search for its token

How likely a token is, is kept as its *distance*: how many fp32 numbers ``exp(..)`` lies below 1. So "most likely first" is "nearest
first", and each of the three questions (where do top-k and top-p cut, which token does ``uniform`` hit) asks for the last distance
before which a sum of counts or weights stays below a limit. The histogram says in which bin of distances that is, the tokens of the
bin are listed, and bisection finds it. Sums are of integers, so what is found is exact; ties follow by arithmetic.
"""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.gpu.dependent_launch import await_previous, launch_options, start_next
from headway.kernels.reference import sampling as reference
from headway.kernels.sampling import BROKEN, Draws

BLOCK = 4096
SCAN = 8192  # of a row that one program reads at a time: its loads are far apart in time, so each should be large
PART = 1024  # of what is bisected: a program keeps as many running sums
LIST_SIZE = 4096  # tokens of one bin that are listed; where more are (nearly equal logits), all of the row is bisected instead
NUM_BINS = 2048  # 1281 are used: weights from 1 to 2^40 span 40 octaves of 32 bins
FINE_BITS = tl.constexpr(18)  # of a distance, within its bin
ONE = tl.constexpr(0x3F800000)  # the bits of 1.0
NOTHING = tl.constexpr(0x7FFFFFFF)  # the distance of a token of weight 0
FARTHEST = tl.constexpr(40 << 23)  # the distance of a weight of 1
DOUBLE_STEP = tl.constexpr(2048)  # more than float64 is apart below 2^63
WEIGHT_SCALE = tl.constexpr(reference.WEIGHT_SCALE)
SMALLEST = tl.constexpr(reference.SMALLEST)
LOG2_E = tl.constexpr(reference.LOG2_E)
LN2_HIGH = tl.constexpr(reference.LN2_HIGH)
LN2_LOW = tl.constexpr(reference.LN2_LOW)
ROUND = tl.constexpr(reference.ROUND)
P7, P6, P5, P4, P3, P2 = (tl.constexpr(coefficient) for coefficient in reference.POLYNOMIAL)


@triton.jit
def peaks_kernel(logits_ptr, peaks_ptr, places_ptr, stride, vocab_size, num_blocks, BLOCK: tl.constexpr, IS_DEPENDENT: tl.constexpr):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * stride + column, mask=column < vocab_size, other=float("-inf"))
    is_nan = x != x
    # Triton's maximum of NaN is not the same everywhere.
    peak, place = tl.max(tl.where(is_nan, float("inf"), x), axis=0, return_indices=True)
    has_nan = tl.max(is_nan.to(tl.int32), axis=0) > 0
    tl.store(peaks_ptr + row * num_blocks + block, tl.where(has_nan, float("inf"), peak))
    tl.store(places_ptr + row * num_blocks + block, block * BLOCK + place)


@triton.jit
def row_peak(peaks_ptr, row, num_blocks, BLOCKS: tl.constexpr):
    """(the row's maximum, the first block that holds it); infinite: the row is broken."""
    at = tl.arange(0, BLOCKS)
    peaks = tl.load(peaks_ptr + row * num_blocks + at, mask=at < num_blocks, other=float("-inf"))
    return tl.max(peaks, axis=0, return_indices=True)


@triton.jit
def finish_kernel(peaks_ptr, places_ptr, out_ptr, num_blocks, BROKEN: tl.constexpr, BLOCKS: tl.constexpr, IS_DEPENDENT: tl.constexpr):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    peak, block = row_peak(peaks_ptr, row, num_blocks, BLOCKS)
    place = tl.load(places_ptr + row * num_blocks + block, mask=tl.abs(peak) < float("inf"), other=BROKEN)
    tl.store(out_ptr + row, place.to(tl.int64))


@triton.jit
def exact_exp(x):
    """See headway.kernels.reference.sampling.exact_exp: the same operations in the same order, none of them fused (see the launch)."""
    x = tl.maximum(x, SMALLEST)
    whole = (x * LOG2_E + ROUND) - ROUND
    rest = (x - whole * LN2_HIGH) - whole * LN2_LOW
    total = ((((rest * P7 + P6) * rest + P5) * rest + P4) * rest + P3) * rest + P2
    value = total * rest * rest + rest + 1.0
    bits = value.to(tl.int32, bitcast=True) + (whole.to(tl.int32) << 23)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def weight_of(distance):
    """The integer weight of a token, 0 for NOTHING."""
    likelihood = (-(tl.minimum(distance, ONE) - ONE)).to(tl.float32, bitcast=True)
    return (likelihood * WEIGHT_SCALE).to(tl.int64)


# Rows of one tensor hold the options: where they begin is any multiple of 8 bytes, and no reason to compile anew.
@triton.jit(do_not_specialize_on_alignment=["lines_ptr", "top_k_ptr", "top_p_ptr", "temperature_ptr", "min_p_ptr"])
def weigh_kernel(
    logits_ptr,
    distances_ptr,
    peaks_ptr,
    histogram_ptr,
    sums_ptr,
    lines_ptr,
    top_k_ptr,
    top_p_ptr,
    temperature_ptr,
    min_p_ptr,
    logits_stride,
    distances_stride,
    vocab_size,
    num_blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    NUM_BINS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    line = tl.load(lines_ptr + row)
    peak, _ = row_peak(peaks_ptr, line, num_blocks, BLOCKS)
    if tl.abs(peak) == float("inf"):
        return
    column = block * BLOCK + tl.arange(0, BLOCK)
    in_row = column < vocab_size
    x = tl.load(logits_ptr + line * logits_stride + column, mask=in_row, other=float("-inf"))
    likelihood = exact_exp(tl.div_rn(x - peak, tl.load(temperature_ptr + row).to(tl.float32)))
    is_likely = likelihood >= tl.load(min_p_ptr + row).to(tl.float32)
    distance = -(likelihood.to(tl.int32, bitcast=True) - ONE)
    distance = tl.where(in_row & is_likely & (distance <= FARTHEST), distance, NOTHING)
    weight = weight_of(distance)
    tl.store(distances_ptr + row * distances_stride + column, distance, mask=in_row)
    tl.store(sums_ptr + row * num_blocks + block, tl.sum(weight, axis=0))
    is_counted = distance != NOTHING
    bins = histogram_ptr + row * 2 * NUM_BINS + (distance >> FINE_BITS)
    is_limited = tl.load(top_k_ptr + row) < vocab_size
    if is_limited | (tl.load(top_p_ptr + row) < 1.0):
        tl.atomic_add(bins, weight, mask=is_counted, sem="relaxed")
    if is_limited:
        tl.atomic_add(bins + NUM_BINS, tl.full([BLOCK], 1, tl.int64), mask=is_counted, sem="relaxed")


@triton.jit
def list_bin(distances, list_ptr, bin, vocab_size, SCAN: tl.constexpr, LIST_SIZE: tl.constexpr):
    """Writes the distances of one bin to the list, as far as it reaches, and returns how many there are."""
    tl.debug_barrier()  # the list of the search before has been read
    size = 0
    for start in range(0, vocab_size, SCAN):
        column = start + tl.arange(0, SCAN)
        distance = tl.load(distances + column, mask=column < vocab_size, other=NOTHING)
        is_in = ((distance >> FINE_BITS) == bin).to(tl.int32)
        num_found = tl.sum(is_in, axis=0)
        if num_found > 0:
            place = size + tl.cumsum(is_in, axis=0) - 1
            tl.store(list_ptr + place, distance, mask=(is_in > 0) & (place < LIST_SIZE))
        size += num_found
    tl.debug_barrier()
    return size


@triton.jit
def sums_between(source, size, low, high, PART: tl.constexpr):
    """(count, weight) of those among ``size`` distances that are in [low, high)."""
    counts = tl.zeros([PART], dtype=tl.int64)
    weights = tl.zeros([PART], dtype=tl.int64)
    for start in range(0, size, PART):
        at = start + tl.arange(0, PART)
        distance = tl.load(source + at, mask=at < size, other=NOTHING)
        is_in = (distance >= low) & (distance < high)
        counts += is_in.to(tl.int64)
        weights += tl.where(is_in, weight_of(distance), 0)
    return tl.sum(counts, axis=0), tl.sum(weights, axis=0)


@triton.jit
def find(
    distances,
    list_ptr,
    histogram,
    limit,
    vocab_size,
    BY_COUNT: tl.constexpr,
    SCAN: tl.constexpr,
    PART: tl.constexpr,
    LIST_SIZE: tl.constexpr,
    NUM_BINS: tl.constexpr,
):
    """(distance, count, weight): the last distance before which count (or weight) is below ``limit``, and the sums before it.

    ``limit`` is from 1 to the row's own sum, so there are tokens at that distance.
    """
    at = tl.arange(0, NUM_BINS)
    weights = tl.load(histogram + at)
    counts = tl.load(histogram + NUM_BINS + at)
    is_before = tl.cumsum(counts if BY_COUNT else weights, axis=0) < limit
    count = tl.sum(tl.where(is_before, counts, 0), axis=0)
    weight = tl.sum(tl.where(is_before, weights, 0), axis=0)
    bin = tl.sum(is_before.to(tl.int32), axis=0)
    size = list_bin(distances, list_ptr, bin, vocab_size, SCAN, LIST_SIZE)
    source = list_ptr
    if size > LIST_SIZE:
        source = distances
        size = vocab_size
    distance = bin << FINE_BITS
    end = (bin + 1) << FINE_BITS
    while end - distance > 1:
        middle = (distance + end) // 2
        more_count, more_weight = sums_between(source, size, distance, middle, PART)
        measure = count + more_count if BY_COUNT else weight + more_weight
        if measure < limit:
            distance = middle
            count += more_count
            weight += more_weight
        else:
            end = middle
    return distance, count, weight


@triton.jit
def first_not_below(threshold):
    """The smallest integer, at least 1, that is not below the float64 ``threshold`` once it is rounded to float64 itself."""
    low = tl.maximum(threshold.to(tl.int64) - DOUBLE_STEP, 0)  # is below, or 0
    high = low + 2 * DOUBLE_STEP
    while high - low > 1:
        middle = (low + high) // 2
        if middle.to(tl.float64) < threshold:
            low = middle
        else:
            high = middle
    return high


@triton.jit
def target_of(uniform, total):
    """The running sum that the drawn token is the first to exceed."""
    return tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)


@triton.jit
def pick_by_id(distances, sums, uniform, vocab_size, num_blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The token that ``uniform`` hits where weights are summed up by token id: its block, then its place there."""
    at = tl.arange(0, BLOCKS)
    weights = tl.load(sums + at, mask=at < num_blocks, other=0)
    target = target_of(uniform, tl.sum(weights, axis=0))
    is_before = tl.cumsum(weights, axis=0) <= target
    first = tl.sum(is_before.to(tl.int32), axis=0) * BLOCK
    before = tl.sum(tl.where(is_before, weights, 0), axis=0)
    column = first + tl.arange(0, BLOCK)
    weight = weight_of(tl.load(distances + column, mask=column < vocab_size, other=NOTHING))
    return first + tl.sum((before + tl.cumsum(weight, axis=0) <= target).to(tl.int32), axis=0)


@triton.jit
def nth_at(distances, wanted, nth, vocab_size, SCAN: tl.constexpr):
    """The token id of the ``nth`` (from 0) token at the distance ``wanted``."""
    token = 0
    for start in range(0, vocab_size, SCAN):
        column = start + tl.arange(0, SCAN)
        is_there = (tl.load(distances + column, mask=column < vocab_size, other=NOTHING) == wanted).to(tl.int32)
        num_there = tl.sum(is_there, axis=0)
        if (nth >= 0) & (nth < num_there):
            token = start + tl.sum((tl.cumsum(is_there, axis=0) <= nth).to(tl.int32), axis=0)
        nth -= num_there
    return token


@triton.jit(do_not_specialize_on_alignment=["lines_ptr", "top_k_ptr", "top_p_ptr", "uniform_ptr"])
def draw_kernel(
    distances_ptr,
    peaks_ptr,
    histogram_ptr,
    sums_ptr,
    list_ptr,
    out_ptr,
    lines_ptr,
    top_k_ptr,
    top_p_ptr,
    uniform_ptr,
    distances_stride,
    vocab_size,
    num_blocks,
    BLOCK: tl.constexpr,
    SCAN: tl.constexpr,
    PART: tl.constexpr,
    BLOCKS: tl.constexpr,
    LIST_SIZE: tl.constexpr,
    NUM_BINS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    start_next(IS_DEPENDENT)
    await_previous(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    line = tl.load(lines_ptr + row)
    peak, _ = row_peak(peaks_ptr, line, num_blocks, BLOCKS)
    if tl.abs(peak) == float("inf"):
        return
    distances = distances_ptr + row * distances_stride
    sums = sums_ptr + row * num_blocks
    listed = list_ptr + row * LIST_SIZE
    histogram = histogram_ptr + row * 2 * NUM_BINS
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    uniform = tl.load(uniform_ptr + row)
    if (top_k >= vocab_size) & (top_p >= 1.0):
        token = pick_by_id(distances, sums, uniform, vocab_size, num_blocks, BLOCK, BLOCKS)
    else:
        bins = tl.arange(0, NUM_BINS)
        total = tl.sum(tl.load(histogram + bins), axis=0)
        if top_k < vocab_size:
            top_k = tl.minimum(top_k, tl.sum(tl.load(histogram + NUM_BINS + bins), axis=0))  # tokens of weight 0 are kept by nobody
            last, count, before = find(distances, listed, histogram, top_k, vocab_size, True, SCAN, PART, LIST_SIZE, NUM_BINS)
            total = before + (top_k - count) * weight_of(last)
        if top_p < 1.0:
            limit = first_not_below(top_p * total.to(tl.float64))
            last, count, before = find(distances, listed, histogram, limit, vocab_size, False, SCAN, PART, LIST_SIZE, NUM_BINS)
            each = weight_of(last)
            total = before + (limit - before + each - 1) // each * each
        target = target_of(uniform, total)
        last, count, before = find(distances, listed, histogram, target + 1, vocab_size, False, SCAN, PART, LIST_SIZE, NUM_BINS)
        token = nth_at(distances, last, ((target - before) // weight_of(last)).to(tl.int32), vocab_size, SCAN)
    tl.store(out_ptr + line, token.to(tl.int64))


def sample_tokens(logits: Tensor, draws: Draws | None) -> Tensor:
    """See headway.kernels.sampling.sample_tokens."""
    num_rows, vocab_size = logits.shape
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if not num_rows:
        return token_ids
    num_blocks = triton.cdiv(vocab_size, BLOCK)
    blocks = triton.next_power_of_2(num_blocks)
    peaks = torch.empty((num_rows, num_blocks), dtype=torch.float32, device=logits.device)
    places = torch.empty((num_rows, num_blocks), dtype=torch.int32, device=logits.device)
    grid, sizes, options = (num_rows, num_blocks), (logits.stride(0), vocab_size, num_blocks), launch_options(logits.device)
    peaks_kernel[grid](logits, peaks, places, *sizes, BLOCK=BLOCK, num_warps=8, **options)
    finish_kernel[(num_rows,)](peaks, places, token_ids, num_blocks, BROKEN=BROKEN, BLOCKS=blocks, num_warps=1, **options)
    if draws is not None and len(draws.lines):
        _draw(logits, draws, peaks, token_ids)
    return token_ids


def _draw(logits: Tensor, draws: Draws, peaks: Tensor, token_ids: Tensor) -> None:
    num_draws, vocab_size, num_blocks = draws.lines.shape[0], logits.shape[1], peaks.shape[1]
    distances = torch.empty((num_draws, num_blocks * BLOCK), dtype=torch.int32, device=logits.device)
    histogram = torch.zeros((num_draws, 2, NUM_BINS), dtype=torch.int64, device=logits.device)
    sums = torch.empty((num_draws, num_blocks), dtype=torch.int64, device=logits.device)
    listed = torch.empty((num_draws, LIST_SIZE), dtype=torch.int32, device=logits.device)
    sizes = (distances.stride(0), vocab_size, num_blocks)
    constants = {"BLOCK": BLOCK, "BLOCKS": triton.next_power_of_2(num_blocks), "NUM_BINS": NUM_BINS, **launch_options(logits.device)}
    limits = (draws.lines, draws.top_k, draws.top_p)
    weigh_kernel[(num_draws, num_blocks)](
        logits,
        distances,
        peaks,
        histogram,
        sums,
        *limits,
        draws.temperature,
        draws.min_p,
        logits.stride(0),
        *sizes,
        **constants,
        num_warps=8,
        enable_fp_fusion=False,
    )
    draw_kernel[(num_draws,)](
        distances,
        peaks,
        histogram,
        sums,
        listed,
        token_ids,
        *limits,
        draws.uniform,
        *sizes,
        **constants,
        SCAN=SCAN,
        PART=PART,
        LIST_SIZE=LIST_SIZE,
        num_warps=16,
    )
