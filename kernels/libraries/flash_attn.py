"""FlashAttention (arXiv:2307.08691, arXiv:2407.08608) over our pages: the packages flash-attn and, for Hopper, flash-attn-3.

Both take pages as [num_blocks, page_size, Hkv, D] with a table of int32. Their plans are made on the device or from shapes alone, so that
a CUDA graph can have a decode step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from headway.kernels.attention_library import AttentionForm, LibraryInfo, LibraryRows, imported
from headway.kernels.backend import KernelUnavailable

_SECOND, _THIRD = "flash_attn", "flash_attn_interface"
_HEAD_DIMS = frozenset(range(8, 257, 8))
_PAGE_MULTIPLE = 256  # of the second; the third takes any


def found(capability: tuple[int, int]) -> LibraryInfo:
    """The third generation on Hopper where it is installed, else the second. Raises KernelUnavailable."""
    if capability[0] == 9 and find_spec(_THIRD) is not None:
        module = imported(_THIRD, "flash-attn-3")
        _require(module.flash_attn_with_kvcache, "page_table", "flash-attn-3", "with paged caches")
        return LibraryInfo("flash_attn_3", f"FlashAttention {_third_version()}", 1, _HEAD_DIMS, is_capturable=True)
    module = imported(_SECOND, "flash-attn")
    for function in (module.flash_attn_with_kvcache, module.flash_attn_varlen_func):
        for parameter in ("block_table", "softcap"):
            _require(function, parameter, "flash-attn", "2.6 or newer")
    return LibraryInfo("flash_attn_2", f"FlashAttention {module.__version__}", _PAGE_MULTIPLE, _HEAD_DIMS, is_capturable=True)


class FlashAttention2:
    def __init__(self) -> None:
        module = imported(_SECOND, "flash-attn")
        self._with_cache: Callable[..., Tensor] = module.flash_attn_with_kvcache
        self._varlen: Callable[..., Tensor] = module.flash_attn_varlen_func

    def decode(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        out = self._with_cache(
            q.unsqueeze(1), k_pages, v_pages, cache_seqlens=rows.seq_lens, block_table=rows.block_tables, causal=True, **_scoring(form)
        )
        return out.squeeze(1)

    def prefill(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        if "key_start_loc" not in rows.prepared:
            rows.prepared["key_start_loc"] = pad(rows.seq_lens.cumsum(0, dtype=torch.int32), (1, 0))
        return self._varlen(
            q,
            k_pages,
            v_pages,
            rows.query_start_loc,
            rows.prepared["key_start_loc"],
            rows.max_query_len,
            rows.max_seq_len,
            block_table=rows.block_tables,
            causal=True,
            **_scoring(form),
        )


class FlashAttention3:
    def __init__(self) -> None:
        self._with_cache: Callable[..., Tensor] = imported(_THIRD, "flash-attn-3").flash_attn_with_kvcache

    def decode(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        out = self._with_cache(
            q.unsqueeze(1), k_pages, v_pages, cache_seqlens=rows.seq_lens, page_table=rows.block_tables, causal=True, **_scoring(form)
        )
        return out.squeeze(1)

    def prefill(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        return self._with_cache(
            q,
            k_pages,
            v_pages,
            cache_seqlens=rows.seq_lens,
            page_table=rows.block_tables,
            cu_seqlens_q=rows.query_start_loc,
            max_seqlen_q=rows.max_query_len,
            causal=True,
            **_scoring(form),
        )


def _scoring(form: AttentionForm) -> dict[str, Any]:
    """The right side of a window is set with the left: for one query the second generation drops ``causal``."""
    window = (form.window_left, 0) if form.window else (-1, -1)
    return {"softmax_scale": form.scale, "window_size": window, "softcap": form.softcap}


def _require(function: Callable[..., Any], parameter: str, package: str, needed: str) -> None:
    if parameter not in inspect.signature(function).parameters:
        raise KernelUnavailable(f"the package {package} is too old: its {function.__name__} has no {parameter}; install one {needed}")


def _third_version() -> str:
    try:
        return version("flash_attn_3")
    except PackageNotFoundError:
        return "3"
