"""Libraries of attention kernels, where they are installed, over our pages on a CUDA device."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest
import torch
from engine_driver import make_engine, request, run
from kernel_cases import BF16, F16, AttentionCase, assert_near, make_attention
from tiny_models import make_tiny_model

from headway.kernels.attention_library import AttentionForm, AttentionLibrary, LibraryRows
from headway.kernels.backend import KernelUnavailable
from headway.kernels.libraries.installed import find_library, open_library
from headway.kernels.reference.prefill_attention import prefill_attention

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

Backend = Literal["FLASH_ATTN", "FLASHINFER"]
CASES = (
    AttentionCase((1, 255, 256, 257, 3000), num_heads=32, num_kv_heads=8, head_dim=128, block_size=256, dtype=BF16),
    AttentionCase((33, 900), num_heads=6, num_kv_heads=2, block_size=256, dtype=F16, sliding_window=9, softcap=30.0),
    AttentionCase((40, 300, 513), (40, 5, 257), num_heads=6, num_kv_heads=2, block_size=256, dtype=BF16),
    AttentionCase((300,), (17,), num_heads=8, num_kv_heads=1, head_dim=256, block_size=256, dtype=F16, sliding_window=9, softcap=30.0),
)


def opened(backend: Backend) -> AttentionLibrary:
    try:
        return open_library(find_library(backend, torch.cuda.get_device_capability()).kind, torch.device("cuda"))
    except KernelUnavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture(params=["FLASH_ATTN", "FLASHINFER"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture
def library(backend: Backend) -> AttentionLibrary:
    return opened(backend)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_the_reference(library: AttentionLibrary, case: AttentionCase) -> None:
    inputs = make_attention(case, "cuda")
    query_lens = list(case.query_lens) or [1] * len(case.seq_lens)
    starts = torch.tensor([0, *query_lens], device="cuda").cumsum(0, dtype=torch.int32)
    longest = max(case.seq_lens)
    rows = LibraryRows(inputs.block_tables, inputs.seq_lens, starts, query_lens, list(case.seq_lens), max(query_lens), longest)
    form = AttentionForm(case.num_heads, case.num_kv_heads, case.head_dim, 0.11, case.sliding_window, case.softcap)
    expected = prefill_attention(
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_tables,
        inputs.seq_lens,
        starts,
        0.11,
        max_query_len=max(query_lens),
        max_seq_len=longest,
        sliding_window=case.sliding_window,
        softcap=case.softcap,
    )
    attend = library.prefill if case.query_lens else library.decode
    for _ in range(2):  # layers of one step
        assert_near(attend(inputs.q, inputs.k_cache, inputs.v_cache, rows, form), expected)


def test_an_engine_scores_tokens_as_with_our_kernels(backend: Backend, library: AttentionLibrary, tmp_path: Path) -> None:
    """What one generates, in steps that are captured where they can be, the other reads as a prompt."""
    files = make_tiny_model("gemma2", tmp_path, seed=1, head_dim=64)
    prompts = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 300, 14))]
    with_library, own = (
        make_engine(
            files,
            model={"device": "cuda", "dtype": "bfloat16", "max_model_len": 512},
            cache={"num_gpu_blocks_override": 64},
            attention={"attention_backend": asked},
        )
        for asked in (backend, "auto")
    )
    assert with_library.info.attention is not None
    asks = [request(f"r{i}", prompt, max_tokens=16, ignore_eos=True, logprobs=1) for i, prompt in enumerate(prompts)]
    found = run(with_library, asks, stagger=2)
    whole = [request(f"r{i}", prompt + found[f"r{i}"].token_ids, max_tokens=1, prompt_logprobs=1) for i, prompt in enumerate(prompts)]
    for name, output in run(own, whole).items():
        assert output.prompt_logprobs is not None
        assert found[name].logprobs is not None
        scores = [[entry.logprob for entry in entries if entry] for entries in (found[name].logprobs, output.prompt_logprobs[-16:])]
        torch.testing.assert_close(*map(torch.tensor, scores), atol=0.1, rtol=0)


def test_a_graph_of_a_decode_step_reads_the_lengths_of_the_next() -> None:
    """Of what serves in CUDA graphs: recorded with rows of one token, replayed with long ones."""
    library = opened("FLASH_ATTN")
    case = AttentionCase((700, 2000), num_heads=32, num_kv_heads=8, head_dim=128, block_size=256, dtype=BF16)
    inputs = make_attention(case, "cuda")
    lens = torch.ones_like(inputs.seq_lens)
    starts = torch.arange(3, dtype=torch.int32, device="cuda")
    bound = inputs.block_tables.shape[1] * case.block_size
    rows = LibraryRows(inputs.block_tables, lens, starts, [1, 1], [1, 1], 1, bound)
    form = AttentionForm(case.num_heads, case.num_kv_heads, case.head_dim, 0.11)
    library.decode(inputs.q, inputs.k_cache, inputs.v_cache, rows, form)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = library.decode(inputs.q, inputs.k_cache, inputs.v_cache, rows, form)
    lens.copy_(inputs.seq_lens)
    graph.replay()
    own = LibraryRows(inputs.block_tables, inputs.seq_lens, starts, [1, 1], list(case.seq_lens), 1, 2000)
    assert_near(found, library.decode(inputs.q, inputs.k_cache, inputs.v_cache, own, form))
