"""The one interface behind which a library of attention kernels stands, where it serves in the place of ours."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headway.kernels.backend import KernelUnavailable

if TYPE_CHECKING:
    from torch import Tensor

LibraryKind = Literal["flash_attn_2", "flash_attn_3", "flashinfer"]


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    kind: LibraryKind
    name: str  # with its version: "FlashAttention 2.8.3"
    page_multiple: int  # what the tokens of a page must be a multiple of
    head_dims: frozenset[int]
    is_capturable: bool  # whether a CUDA graph can have its calls for rows of one query


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """What sets the attention of one layer apart from another's."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0  # keys that a query sees, its own included; 0: all
    softcap: float = 0.0  # 0: none

    @property
    def window_left(self) -> int:
        """Keys before a query's own, as these libraries count them; -1: all."""
        return self.window - 1 if self.window else -1


@dataclass(slots=True)
class LibraryRows:
    """The rows of a step with one query each, or those with more: queries are in the order of rows, of which each has those at its end.

    Shared by all layers of the step, on the device where nothing else is said. B rows, M pages of the widest."""

    block_tables: Tensor  # [B, M] int32, contiguous
    seq_lens: Tensor  # [B] int32, at least the row's queries
    query_start_loc: Tensor  # [B + 1] int32
    query_lens: list[int]  # [B], on the host
    seq_lens_host: list[int]  # [B], on the host
    max_query_len: int
    max_seq_len: int
    prepared: dict[Any, Any] = field(default_factory=dict)  # the library's own, filled by the first layer that needs it


class AttentionLibrary(Protocol):
    """q [T, Hq, D] in fp16 or bf16, dense in D; pages [num_blocks, page_size, Hkv, D] in its dtype, contiguous, with this step's keys in
    them -> a new [T, Hq, D]. The meaning is that of kernels/paged_attention.py and kernels/prefill_attention.py."""

    def decode(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        """Rows of one query each."""
        ...

    def prefill(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor: ...


def imported(module: str, package: str) -> Any:
    """``module`` of ``package``. Raises KernelUnavailable, with the cause where it is there and can't be loaded."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name == module:
            raise KernelUnavailable(f"the package {package} is not installed") from None
        raise KernelUnavailable(f"the package {package} can't be imported: {problem}") from problem
    except Exception as problem:  # of its own code, or libraries built for another torch or CUDA
        cause = str(problem).strip().splitlines() or [type(problem).__name__]
        raise KernelUnavailable(f"the package {package} can't be imported: {cause[0]}") from problem
