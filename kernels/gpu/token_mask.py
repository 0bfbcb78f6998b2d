"""Token masks in Triton: one program a masked row and a block of its logits."""

# mypy: allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def forbid_kernel(logits_ptr, allowed_ptr, lines_ptr, logits_stride, allowed_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    word = tl.load(allowed_ptr + row * allowed_stride + column // 32, mask=inside, other=-1)
    is_forbidden = ((word >> (column % 32).to(tl.int32)) & 1) == 0
    line = tl.load(lines_ptr + row).to(tl.int64)
    # Only what changes is written: most masks allow nearly everything, or nearly nothing.
    tl.store(logits_ptr + line * logits_stride + column, float("-inf"), mask=inside & is_forbidden)


def forbid_tokens(logits: Tensor, allowed: Tensor, lines: Tensor) -> None:
    """See headway.kernels.token_mask.forbid_tokens."""
    num_rows, size = lines.shape[0], logits.shape[1]
    if num_rows and size:
        grid = (num_rows, triton.cdiv(size, BLOCK))
        forbid_kernel[grid](logits, allowed, lines, logits.stride(0), allowed.stride(0), size, BLOCK=BLOCK, num_warps=4)
