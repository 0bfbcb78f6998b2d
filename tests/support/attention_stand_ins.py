"""What stands for the libraries of attention kernels where they can't be installed: modules of their names, whose functions take what the
real ones' documentation lets them take, insist on the shapes, types and strides that it demands, and compute with the plain reference."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from headway.kernels.reference.prefill_attention import prefill_attention

NAMES = ("flash_attn", "flash_attn_interface", "flashinfer")


class StandIns:
    """Counts calls by function."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> StandIns:
    """Of ``names`` those are there, of NAMES the others are not."""
    found = StandIns()
    makers = {"flash_attn": _flash_attn_2, "flash_attn_interface": _flash_attn_3, "flashinfer": _flashinfer}
    for name in NAMES:
        module = None
        if name in names:
            module = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            for attribute, value in makers[name](found).items():
                setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def _check(q: Tensor, k: Tensor, v: Tensor, *, page_multiple: int = 1) -> None:
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert k.dtype == v.dtype == q.dtype
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert k.dim() == 4
    assert k.shape == v.shape
    assert k.shape[1] % page_multiple == 0, "Paged KV cache block size must be divisible by 256"
    assert q.shape[-1] == k.shape[-1]
    assert q.shape[-1] % 8 == 0
    assert q.shape[-1] <= 256
    assert q.shape[-2] % k.shape[2] == 0


def _check_table(table: Tensor, num_rows: int) -> None:
    assert table.dtype == torch.int32
    assert table.shape[0] == num_rows
    assert table.stride(-1) == 1


def _check_counts(*counts: Tensor) -> None:
    for tensor in counts:
        assert tensor.dtype == torch.int32
        assert tensor.dim() == 1
        assert tensor.is_contiguous()


def _window(left: int, right: int) -> int:
    """Keys that a query sees, of a window whose right side is where causality has it."""
    assert (left, right) == (-1, -1) or (left >= 0 and right == 0)
    return left + 1


def _compute(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, lens: Tensor, starts: Tensor, scale: float, window: int, softcap: float
) -> Tensor:
    longest = int((starts[1:] - starts[:-1]).max())
    return prefill_attention(
        q, k, v, table, lens, starts, scale, max_query_len=longest, max_seq_len=int(lens.max()), sliding_window=window, softcap=softcap
    )


def _decode_starts(num_rows: int) -> Tensor:
    return torch.arange(num_rows + 1, dtype=torch.int32)


def _flash_attn_2(calls: StandIns) -> dict[str, Any]:
    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: None = None,
        v: None = None,
        rotary_cos: None = None,
        rotary_sin: None = None,
        cache_seqlens: Tensor | None = None,
        cache_batch_idx: None = None,
        cache_leftpad: None = None,
        block_table: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        alibi_slopes: None = None,
        num_splits: int = 0,
        return_softmax_lse: bool = False,
    ) -> Tensor:
        calls.count("flash_attn_with_kvcache")
        assert block_table is not None
        assert cache_seqlens is not None
        assert softmax_scale is not None
        _check(q, k_cache, v_cache, page_multiple=256)
        _check_table(block_table, len(q))
        _check_counts(cache_seqlens)
        assert q.dim() == 4
        assert q.shape[1] == 1
        assert len(cache_seqlens) == len(q)
        window = _window(*window_size)
        out = _compute(q[:, 0], k_cache, v_cache, block_table, cache_seqlens, _decode_starts(len(q)), softmax_scale, window, softcap)
        return out.unsqueeze(1)

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
    ) -> Tensor:
        calls.count("flash_attn_varlen_func")
        assert block_table is not None
        assert softmax_scale is not None
        assert causal
        _check(q, k, v, page_multiple=256)
        _check_counts(cu_seqlens_q, cu_seqlens_k)
        assert cu_seqlens_q[0] == cu_seqlens_k[0] == 0
        assert cu_seqlens_q[-1] == len(q)
        _check_table(block_table, len(cu_seqlens_q) - 1)
        lens = cu_seqlens_k[1:] - cu_seqlens_k[:-1]
        assert int((cu_seqlens_q[1:] - cu_seqlens_q[:-1]).max()) == max_seqlen_q
        assert int(lens.max()) <= max_seqlen_k <= block_table.shape[1] * k.shape[1]
        return _compute(q, k, v, block_table, lens, cu_seqlens_q, softmax_scale, _window(*window_size), softcap)

    return {
        "__version__": "2.8.3",
        "flash_attn_with_kvcache": flash_attn_with_kvcache,
        "flash_attn_varlen_func": flash_attn_varlen_func,
    }


def _flash_attn_3(calls: StandIns) -> dict[str, Any]:
    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: None = None,
        v: None = None,
        qv: None = None,
        rotary_cos: None = None,
        rotary_sin: None = None,
        cache_seqlens: Tensor | None = None,
        cache_batch_idx: None = None,
        cache_leftpad: None = None,
        page_table: Tensor | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k_new: None = None,
        max_seqlen_q: int | None = None,
        rotary_seqlens: None = None,
        q_descale: None = None,
        k_descale: None = None,
        v_descale: None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        attention_chunk: int = 0,
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        scheduler_metadata: None = None,
        num_splits: int = 0,
        pack_gqa: None = None,
        sm_margin: int = 0,
        return_softmax_lse: bool = False,
    ) -> Tensor:
        calls.count("decode" if cu_seqlens_q is None else "prefill")
        assert page_table is not None
        assert cache_seqlens is not None
        assert softmax_scale is not None
        assert causal
        _check(q, k_cache, v_cache)
        _check_counts(cache_seqlens)
        _check_table(page_table, len(cache_seqlens))
        window = _window(*window_size)
        if cu_seqlens_q is None:
            assert q.dim() == 4
            assert q.shape[:2] == (len(cache_seqlens), 1)
            starts = _decode_starts(len(q))
            return _compute(q[:, 0], k_cache, v_cache, page_table, cache_seqlens, starts, softmax_scale, window, softcap).unsqueeze(1)
        _check_counts(cu_seqlens_q)
        assert q.dim() == 3
        assert cu_seqlens_q[0] == 0
        assert cu_seqlens_q[-1] == len(q)
        assert int((cu_seqlens_q[1:] - cu_seqlens_q[:-1]).max()) == max_seqlen_q
        return _compute(q, k_cache, v_cache, page_table, cache_seqlens, cu_seqlens_q, softmax_scale, window, softcap)

    return {"flash_attn_with_kvcache": flash_attn_with_kvcache}


class _Wrapper:
    """A plan lies in the wrapper until the next one, and says what may be run."""

    calls: StandIns

    def __init__(self, float_workspace_buffer: Tensor, kv_layout: str, num_workspace_bytes: int = 128 * 1024**2) -> None:
        assert kv_layout == "NHD"
        assert float_workspace_buffer.dtype == torch.uint8
        assert float_workspace_buffer.numel() >= num_workspace_bytes
        self._device = float_workspace_buffer.device

    def _keep(self, starts: Tensor, indptr: Tensor, indices: Tensor, last_page_len: Tensor, sizes: tuple[int, ...], options: Any) -> None:
        _check_counts(starts, indptr, indices, last_page_len)
        assert indices.device == self._device
        assert len(indptr) == len(last_page_len) + 1 == len(starts)
        counts = indptr[1:] - indptr[:-1]
        assert indptr[0] == 0
        assert indptr[-1] == len(indices)
        assert bool((counts >= 1).all())
        *_, head_dim, page_size = sizes
        assert bool(((last_page_len >= 1) & (last_page_len <= page_size)).all())
        assert head_dim in (64, 128, 256)
        self._table = torch.zeros(len(counts), int(counts.max()), dtype=torch.int32)
        for row, (first, count) in enumerate(zip(indptr.tolist(), counts.tolist(), strict=False)):
            self._table[row, :count] = indices[first : first + count].cpu()
        self._lens = (counts - 1) * page_size + last_page_len
        self._starts, self._sizes, self._options = starts, sizes, options

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        k, v = paged_kv_cache
        options = self._options
        _check(q, k, v)
        assert q.dtype == options["q_data_type"]
        assert k.dtype == options["kv_data_type"]
        num_heads, num_kv_heads, head_dim, page_size = self._sizes
        assert q.shape == (int(self._starts[-1]), num_heads, head_dim)
        assert k.shape[1:] == (page_size, num_kv_heads, head_dim)
        window = options["window_left"] + 1
        scale, softcap = options["sm_scale"], options["logits_soft_cap"]
        return _compute(q, k, v, self._table, self._lens, self._starts, scale, window, softcap)


def _flashinfer(calls: StandIns) -> dict[str, Any]:
    class BatchDecodeWithPagedKVCacheWrapper(_Wrapper):
        def __init__(self, float_workspace_buffer: Tensor, kv_layout: str = "NHD", use_tensor_cores: bool = False) -> None:
            super().__init__(float_workspace_buffer, kv_layout)
            self._use_tensor_cores = use_tensor_cores

        def plan(
            self,
            indptr: Tensor,
            indices: Tensor,
            last_page_len: Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim: int,
            page_size: int,
            *,
            window_left: int = -1,
            logits_soft_cap: float | None = None,
            q_data_type: torch.dtype = torch.float16,
            kv_data_type: torch.dtype | None = None,
            sm_scale: float | None = None,
        ) -> None:
            calls.count("plan decode")
            assert self._use_tensor_cores or num_qo_heads // num_kv_heads in (1, 2, 3, 4, 8), "Unsupported group_size"
            options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
            sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
            self._keep(_decode_starts(len(last_page_len)), indptr, indices, last_page_len, sizes, options)

    class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
        def __init__(self, float_workspace_buffer: Tensor, kv_layout: str = "NHD") -> None:
            super().__init__(float_workspace_buffer, kv_layout)

        def plan(
            self,
            qo_indptr: Tensor,
            paged_kv_indptr: Tensor,
            paged_kv_indices: Tensor,
            paged_kv_last_page_len: Tensor,
            num_qo_heads: int,
            num_kv_heads: int,
            head_dim_qk: int,
            page_size: int,
            head_dim_vo: int | None = None,
            *,
            causal: bool = False,
            sm_scale: float | None = None,
            window_left: int = -1,
            logits_soft_cap: float | None = None,
            q_data_type: torch.dtype = torch.float16,
            kv_data_type: torch.dtype | None = None,
        ) -> None:
            calls.count("plan prefill")
            assert causal
            options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
            sizes = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
            self._keep(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, sizes, options)

    return {
        "__version__": "0.6.9",
        "BatchDecodeWithPagedKVCacheWrapper": BatchDecodeWithPagedKVCacheWrapper,
        "BatchPrefillWithPagedKVCacheWrapper": BatchPrefillWithPagedKVCacheWrapper,
    }
