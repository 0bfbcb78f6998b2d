"""FlashInfer (arXiv:2501.01005) over our pages.

Its calls are planned on the host, once a step and form of attention: a plan lies in a wrapper's own buffers until the next one, so that
there is a wrapper for each form. No CUDA graph has such a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.kernels.attention_library import AttentionForm, LibraryInfo, LibraryRows, imported

_HEAD_DIMS = frozenset((64, 128, 256))
_LAYOUT = "NHD"  # pages as ours are: tokens, heads, numbers
# For parts of long sequences. Its documentation recommends 128 MiB; where many query heads share one of keys that is too little, and a
# plan fails.
_WORKSPACE_BYTES = 400 * 1024**2
_TENSOR_CORES_FROM = 4  # query heads to one of keys: below, a decode step has too few queries for matrix units


def found() -> LibraryInfo:
    """Raises KernelUnavailable."""
    module = imported("flashinfer", "flashinfer-python")
    return LibraryInfo("flashinfer", f"FlashInfer {module.__version__}", 1, _HEAD_DIMS, is_capturable=False)


@dataclass(frozen=True, slots=True)
class _Pages:
    """Of all rows, one behind the other."""

    indptr: Tensor  # [B + 1] int32 on the host: where a row's begin
    indices: Tensor  # [indptr[B]] int32 on the device
    last_lens: Tensor  # [B] int32 on the host: tokens of a row's last one


class FlashInfer:
    """Owns the workspace and the wrappers, one of each form for rows of one query and one for others."""

    def __init__(self, device: torch.device) -> None:
        self._module = imported("flashinfer", "flashinfer-python")
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._decoding: dict[AttentionForm, _Planned] = {}
        self._prefilling: dict[AttentionForm, _Planned] = {}

    def decode(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        if form not in self._decoding:
            uses_tensor_cores = form.num_heads // form.num_kv_heads >= _TENSOR_CORES_FROM
            make = self._module.BatchDecodeWithPagedKVCacheWrapper
            self._decoding[form] = _Planned(make(self._workspace, _LAYOUT, use_tensor_cores=uses_tensor_cores), q.device)
        planned = self._decoding[form]
        if form not in rows.prepared:
            pages = _pages(rows, k_pages.shape[1])
            sizes = (form.num_heads, form.num_kv_heads, form.head_dim, k_pages.shape[1])
            planned.plan(pages.indptr, pages.indices, pages.last_lens, *sizes, **_scoring(form, q.dtype))
            rows.prepared[form] = planned
        return planned.run(q, k_pages, v_pages)

    def prefill(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: LibraryRows, form: AttentionForm) -> Tensor:
        if form not in self._prefilling:
            self._prefilling[form] = _Planned(self._module.BatchPrefillWithPagedKVCacheWrapper(self._workspace, _LAYOUT), q.device)
        planned = self._prefilling[form]
        if form not in rows.prepared:
            pages = _pages(rows, k_pages.shape[1])
            sizes = (form.num_heads, form.num_kv_heads, form.head_dim, k_pages.shape[1])
            starts = torch.tensor([0, *np.cumsum(rows.query_lens).tolist()], dtype=torch.int32)
            planned.plan(starts, pages.indptr, pages.indices, pages.last_lens, *sizes, causal=True, **_scoring(form, q.dtype))
            rows.prepared[form] = planned
        return planned.run(q, k_pages, v_pages)


class _Planned:
    """A wrapper, whose plan is copied to the device from pinned memory of its own. That must not be written while a copy is under
    way, as the plan of a step would that is prepared before the one ahead of it has begun."""

    def __init__(self, wrapper: Any, device: torch.device) -> None:
        self._wrapper = wrapper
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def plan(self, *args: Any, **kwargs: Any) -> None:
        if self._copied is not None:
            self._copied.synchronize()  # returns at once before the first ``record``
        self._wrapper.plan(*args, **kwargs)
        if self._copied is not None:
            self._copied.record()

    def run(self, q: Tensor, k_pages: Tensor, v_pages: Tensor) -> Tensor:
        out: Tensor = self._wrapper.run(q, (k_pages, v_pages))
        return out


def _scoring(form: AttentionForm, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "sm_scale": form.scale,
        "window_left": form.window_left,
        "logits_soft_cap": form.softcap,
        "q_data_type": dtype,
        "kv_data_type": dtype,
    }


def _pages(rows: LibraryRows, page_size: int) -> _Pages:
    """Gathered on the device, where the tables are; which entries is known on the host."""
    if "pages" in rows.prepared:
        pages: _Pages = rows.prepared["pages"]
        return pages
    lens = np.asarray(rows.seq_lens_host, dtype=np.int64)
    counts = -(-lens // page_size)
    ends = counts.cumsum()
    starts = ends - counts
    width = rows.block_tables.shape[1]
    entries = np.arange(ends[-1]) + np.repeat(np.arange(len(lens)) * width - starts, counts)
    device = rows.block_tables.device
    wanted = torch.from_numpy(entries)
    if device.type == "cuda":
        wanted = wanted.pin_memory().to(device, non_blocking=True)
    rows.prepared["pages"] = pages = _Pages(
        indptr=torch.tensor([0, *ends.tolist()], dtype=torch.int32),
        indices=rows.block_tables.reshape(-1)[wanted],
        last_lens=torch.from_numpy((lens - (counts - 1) * page_size).astype(np.int32)),
    )
    return pages
