"""Penalties in Triton: one program a row and a block of its logits, of which only those of tokens that were seen are touched."""

# mypy: allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from headway.kernels.penalties import Penalties

BLOCK = 4096
COUNT_BLOCK = 128


@triton.jit
def penalise_kernel(
    logits_ptr,
    counts_ptr,
    in_prompt_ptr,
    lines_ptr,
    slots_ptr,
    presence_ptr,
    frequency_ptr,
    repetition_ptr,
    logits_stride,
    counts_stride,
    in_prompt_stride,
    vocab_size,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab_size
    line = tl.load(lines_ptr + row)
    slot = tl.load(slots_ptr + row)
    count = tl.load(counts_ptr + slot * counts_stride + column, mask=inside, other=0.0)
    in_prompt = tl.load(in_prompt_ptr + slot * in_prompt_stride + column, mask=inside, other=0)
    is_seen = (count > 0) | (in_prompt != 0)
    x = tl.load(logits_ptr + line * logits_stride + column, mask=is_seen, other=0.0)
    repetition = tl.load(repetition_ptr + row)
    x = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
    x = x - tl.load(frequency_ptr + row) * count - tl.where(count > 0, tl.load(presence_ptr + row), 0.0)
    tl.store(logits_ptr + line * logits_stride + column, x, mask=is_seen)


@triton.jit
def count_kernel(counts_ptr, slots_ptr, tokens_ptr, stride, num_pairs, vocab_size, COUNT_BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * COUNT_BLOCK + tl.arange(0, COUNT_BLOCK)
    slot = tl.load(slots_ptr + at, mask=at < num_pairs, other=-1)
    token = tl.load(tokens_ptr + at, mask=at < num_pairs, other=-1)
    is_counted = (slot >= 0) & (token >= 0) & (token < vocab_size)
    tl.atomic_add(counts_ptr + slot * stride + token, tl.full([COUNT_BLOCK], 1.0, tl.float32), mask=is_counted, sem="relaxed")


def apply_penalties(logits: Tensor, penalties: Penalties, counts: Tensor, in_prompt: Tensor) -> None:
    """See headway.kernels.penalties.apply_penalties."""
    num_rows, vocab_size = penalties.lines.shape[0], logits.shape[1]
    if num_rows and vocab_size:
        penalise_kernel[(num_rows, triton.cdiv(vocab_size, BLOCK))](
            logits,
            counts,
            in_prompt.view(torch.uint8),
            penalties.lines,
            penalties.slots,
            penalties.presence,
            penalties.frequency,
            penalties.repetition,
            logits.stride(0),
            counts.stride(0),
            in_prompt.stride(0),
            vocab_size,
            BLOCK=BLOCK,
            num_warps=8,
        )


def count_tokens(counts: Tensor, slots: Tensor, token_ids: Tensor) -> None:
    """See headway.kernels.penalties.count_tokens."""
    num_pairs = slots.shape[0]
    if num_pairs:
        count_kernel[(triton.cdiv(num_pairs, COUNT_BLOCK),)](
            counts, slots, token_ids, counts.stride(0), num_pairs, counts.shape[1], COUNT_BLOCK=COUNT_BLOCK, num_warps=4
        )
