"""What attention and rope compute once per step and all layers of the step share. Made by ``prepare_*``, read by the implementations.

A plan belongs to one step, one kind of layer (sliding window) and one page layout; its fields are the business of the
implementation that made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RopePlan:
    """Rows of the cosine table for the step's tokens, and where their keys and values go."""

    cos: Tensor  # [T, 1, rotary_dim // 2] fp32
    sin: Tensor  # same
    slots: Tensor  # [T'] int64, the tokens that are written
    tokens: Tensor | None  # [T'] int64, which tokens those are; None: all


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of similar length that are gathered and attended in one call."""

    rows: Tensor | None  # [R] int64; None: all rows, in order
    blocks: Tensor  # [R * W] int64, pages of each row, padded to the group's widest row
    num_rows: int
    kv_len: int  # keys attended per row: the longest of the group
    mask: Tensor | None  # [R, 1, 1, kv_len] additive, in the query dtype; None: all rows are equally long


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Gather indices and masks for ``paged_attention``."""

    groups: tuple[DecodeGroup, ...]


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """One row, or several of equal shape, of a prefill step."""

    start: int  # first query token
    num_rows: int
    query_len: int
    kv_start: int  # first key of the gathered pages that is attended
    kv_len: int
    blocks: Tensor  # [num_rows * W] int64
    is_causal: bool  # query_len == kv_len: the operator's own causal mask is right
    mask: Tensor | None  # [query_len, kv_len] additive, in the query dtype


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Gather indices and masks for ``prefill_attention``."""

    rows: tuple[PrefillRow, ...]
    scratch: dict[str, Tensor] = field(default_factory=dict)
