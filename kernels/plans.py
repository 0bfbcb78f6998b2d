"""What rope, attention and adapters compute once per step for all of its layers. Made by ``prepare_*``, read by the implementations.

A plan belongs to one step, one kind of layer (sliding window) and one page layout. Its fields are the business of the
implementation that made it; callers only pass it on.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RopePlan:
    """Rows of the cosine table for the step's tokens, and where their keys and values go."""

    cos: Tensor  # [T, 1, rotary_dim // 2] fp32
    sin: Tensor  # same
    slots: Tensor  # [T'] int64, the slots that are written
    tokens: Tensor | None  # [T'] int64, the tokens that are written there; None: all, in order


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of similar length that are gathered and attended in one call."""

    rows: Tensor | None  # [R] int64, which rows of the step; None: all, in order
    blocks: Tensor  # [R * W] int64, W pages of each row
    num_rows: int  # R
    kv_len: int  # keys attended of each row's W pages
    mask: Tensor  # [R, 1, 1, kv_len] additive, in the query dtype: hides padding and what left the sliding window


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Gather indices and masks for ``paged_attention``."""

    groups: tuple[DecodeGroup, ...]


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """One row of a prefill step. Keys are counted from the first gathered page."""

    query_start: int
    query_len: int
    kv_len: int
    blocks: Tensor  # [W] int64, the pages that any of the queries sees


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Gather indices for ``prefill_attention`` and one mask that serves every row.

    ``mask[i, c]`` says whether the query ``TILE - i`` positions before the end of its tile sees the key ``width - c`` positions
    before the same end. That depends on the distance only, so any tile's mask is the bottom right corner of this one.
    """

    rows: tuple[PrefillRow, ...]
    mask: Tensor  # [TILE, longest kv_len] additive, in the query dtype
    sliding_window: int


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """The tokens of one adapter."""

    slot: int
    tokens: Tensor | None  # [n] int64; None: all of the step, in order


@dataclass(frozen=True, slots=True)
class LoraTiles:
    """The tokens of all adapters, sorted by slot and cut into tiles of one slot each, for kernels that do all in one launch."""

    tokens: Tensor  # [T'] int32, the tokens that have an adapter, those of one slot together
    tiles: Tensor  # [num_tiles, 3] int32: slot, first and last + 1 entry of tokens. Slot -1: an empty tile
    slots: tuple[int, ...]  # those that occur
    block_m: int  # tokens a tile at most


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The adapters of a step that has any."""

    groups: tuple[LoraGroup, ...]
    tiles: LoraTiles | None = None
