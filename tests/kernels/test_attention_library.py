"""Libraries of attention kernels behind our interface: what they are given, and which of them is found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from attention_stand_ins import NAMES, install
from kernel_cases import BF16, F16, AttentionCase, AttentionInputs, make_attention

from headway.kernels.attention_library import AttentionForm, AttentionLibrary, LibraryKind, LibraryRows
from headway.kernels.backend import KernelUnavailable
from headway.kernels.libraries.installed import find_library, open_library
from headway.kernels.reference.paged_attention import paged_attention
from headway.kernels.reference.prefill_attention import prefill_attention

CPU = torch.device("cpu")
KINDS: tuple[LibraryKind, ...] = ("flash_attn_2", "flash_attn_3", "flashinfer")
DECODES = (
    AttentionCase((1, 255, 256, 257, 700), num_heads=6, num_kv_heads=2, block_size=256, dtype=BF16),
    AttentionCase((33, 1), num_heads=8, num_kv_heads=1, head_dim=128, block_size=256, dtype=F16, sliding_window=9, softcap=30.0),
)
PREFILLS = (
    AttentionCase((40, 300, 513), (40, 5, 257), num_heads=6, num_kv_heads=2, block_size=256, dtype=BF16),
    AttentionCase((300,), (17,), num_heads=2, num_kv_heads=2, head_dim=128, block_size=256, dtype=F16, sliding_window=9, softcap=30.0),
)


@pytest.fixture(params=KINDS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AttentionLibrary:
    install(monkeypatch, *NAMES)
    return open_library(request.param, CPU)


def rows_of(case: AttentionCase, inputs: AttentionInputs) -> LibraryRows:
    query_lens = list(case.query_lens) or [1] * len(case.seq_lens)
    starts = torch.tensor([0, *query_lens]).cumsum(0, dtype=torch.int32)
    return LibraryRows(inputs.block_tables, inputs.seq_lens, starts, query_lens, list(case.seq_lens), max(query_lens), max(case.seq_lens))


def form_of(case: AttentionCase) -> AttentionForm:
    return AttentionForm(case.num_heads, case.num_kv_heads, case.head_dim, 0.11, case.sliding_window, case.softcap)


@pytest.mark.parametrize("case", DECODES, ids=str)
def test_decode_is_that_of_the_reference(library: AttentionLibrary, case: AttentionCase) -> None:
    inputs, form = make_attention(case), form_of(case)
    rows = rows_of(case, inputs)
    expected = paged_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_tables,
        inputs.seq_lens,
        0.11,
        max_seq_len=max(case.seq_lens),
        sliding_window=case.sliding_window,
        softcap=case.softcap,
    )
    wide = torch.cat([inputs.q, inputs.q], dim=1)[:, : case.num_heads]  # as a part of what a projection gives
    for q in (inputs.q, wide):  # a second layer of the step
        assert torch.equal(library.decode(q, inputs.k_cache, inputs.v_cache, rows, form), expected)


@pytest.mark.parametrize("case", PREFILLS, ids=str)
def test_prefill_is_that_of_the_reference(library: AttentionLibrary, case: AttentionCase) -> None:
    inputs, form = make_attention(case), form_of(case)
    rows = rows_of(case, inputs)
    expected = prefill_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_tables,
        inputs.seq_lens,
        rows.query_start_loc,
        0.11,
        max_query_len=rows.max_query_len,
        max_seq_len=rows.max_seq_len,
        sliding_window=case.sliding_window,
        softcap=case.softcap,
    )
    for _ in range(2):
        assert torch.equal(library.prefill(inputs.q, inputs.k_cache, inputs.v_cache, rows, form), expected)


def test_a_plan_is_made_once_a_step_and_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """And layers of two forms, which take turns, keep each its own."""
    calls = install(monkeypatch, "flashinfer").calls
    library = open_library("flashinfer", CPU)
    case = replace(DECODES[0], block_size=16)
    inputs, form = make_attention(case), form_of(case)
    windowed = replace(form, window=20)
    for step in range(1, 3):
        rows = rows_of(case, inputs)
        found = [[library.decode(inputs.q, inputs.k_cache, inputs.v_cache, rows, own) for own in (form, windowed)] for _ in range(2)]
        assert calls == {"plan decode": 2 * step}
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        assert not torch.equal(found[0][0], found[0][1])


def test_what_is_found_by_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *NAMES)
    third = find_library("FLASH_ATTN", (9, 0))
    assert (third.kind, third.page_multiple, third.is_capturable) == ("flash_attn_3", 1, True)
    assert third.name.startswith("FlashAttention 3")
    second = find_library("FLASH_ATTN", (8, 9))
    assert (second.kind, second.name, second.page_multiple, second.is_capturable) == ("flash_attn_2", "FlashAttention 2.8.3", 256, True)
    assert {64, 80, 96, 128, 256} <= second.head_dims
    assert not {60, 320} & second.head_dims
    other = find_library("FLASHINFER", (10, 0))
    assert (other.kind, other.name, other.page_multiple, other.is_capturable) == ("flashinfer", "FlashInfer 0.6.9", 1, False)
    install(monkeypatch, "flash_attn")
    assert find_library("FLASH_ATTN", (9, 0)).kind == "flash_attn_2"


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(KernelUnavailable, match="the package flash-attn is not installed"):
        find_library("FLASH_ATTN", (9, 0))
    with pytest.raises(KernelUnavailable, match="the package flashinfer-python is not installed"):
        find_library("FLASHINFER", (9, 0))
    install(monkeypatch, *NAMES)
    for backend in ("FLASH_ATTN", "FLASHINFER"):
        with pytest.raises(KernelUnavailable, match=r"needs a GPU of compute capability 8\.0 or newer, and this one has 7\.5"):
            find_library(backend, (7, 5))  # type: ignore[arg-type]


def test_one_that_is_too_old_or_built_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn")

    def without_pages(q: torch.Tensor, k_cache: torch.Tensor) -> None: ...

    monkeypatch.setattr(sys.modules["flash_attn"], "flash_attn_with_kvcache", without_pages)
    with pytest.raises(KernelUnavailable, match=r"flash-attn is too old: its without_pages has no block_table; install one 2\.6 or newer"):
        find_library("FLASH_ATTN", (8, 0))

    def broken(name: str) -> ModuleType:
        raise ImportError("flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2E\nmore")

    importing: Callable[[str], ModuleType] = broken
    monkeypatch.setattr("headway.kernels.attention_library.importlib.import_module", importing)
    with pytest.raises(KernelUnavailable) as caught:
        find_library("FLASH_ATTN", (8, 0))
    assert str(caught.value) == "the package flash-attn can't be imported: flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2E"
