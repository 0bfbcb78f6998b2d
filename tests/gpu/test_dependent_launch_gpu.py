"""Kernels that begin while the one before still runs compute what they do one after the other: to the last bit, in graphs and without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import make_engine, request, run
from tiny_models import make_tiny_model

from headway.server.source.files import ModelFiles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

# Wide enough that products take longer than it takes to start the next kernel.
SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "head_dim": 64, "num_attention_heads": 16, "num_key_value_heads": 4}
PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((200, 60, 7))]
NUM_TOKENS = 100


@contextmanager
def _one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from headway.kernels.gpu import dependent_launch

    with monkeypatch.context() as patch:
        patch.setattr(dependent_launch, "has_dependent_launch", lambda device: False)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("wide")), seed=1, num_hidden_layers=4, **SIZES)


@pytest.mark.parametrize("num_requests", [1, 3])
@pytest.mark.parametrize("is_eager", [False, True], ids=["graphs", "eager"])
def test_answers_are_the_same(files: ModelFiles, num_requests: int, is_eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _answers(files, num_requests, is_eager)
    with _one_after_the_other(monkeypatch):
        assert _answers(files, num_requests, is_eager) == found


def test_a_product_sees_what_was_written_just_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input is the output of a long kernel, again and again over the same memory, as in a graph."""
    from headway.kernels.linear import pack_linear, packed_linear
    from headway.kernels.norm import rms_norm

    torch.manual_seed(0)
    wide, narrow = (pack_linear(torch.randn(size, device="cuda", dtype=torch.bfloat16) / 64) for size in ((16384, 4096), (4096, 16384)))
    weight = torch.ones(4096, device="cuda", dtype=torch.bfloat16)

    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = rms_norm(packed_linear(packed_linear(x, wide), narrow), weight, 1e-5)
        return x

    for num_rows in (1, 5):
        x = torch.randn(num_rows, 4096, device="cuda", dtype=torch.bfloat16)
        with _one_after_the_other(monkeypatch):
            expected = chain(x)
        graph, found = torch.cuda.CUDAGraph(), chain(x)
        with torch.cuda.graph(graph):
            recorded = chain(x)
        assert found.equal(expected)
        for _ in range(10):
            recorded.zero_()
            graph.replay()
            assert recorded.equal(expected)


def _answers(files: ModelFiles, num_requests: int, is_eager: bool) -> dict[str, Any]:
    graphs: dict[str, Any] = {"enforce_eager": True} if is_eager else {"cudagraph_capture_sizes": ["1", "4"]}
    model = {"max_model_len": 512, "device": "cuda", "dtype": "bfloat16"}
    engine = make_engine(files, model=model, cache={"num_gpu_blocks_override": 128, "block_size": 16}, graphs=graphs)
    asks = [request(f"r{i}", prompt, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=0) for i, prompt in enumerate(PROMPTS[:num_requests])]
    outputs = run(engine, asks)
    engine.shutdown()
    return {name: (output.token_ids, [entry.logprob for entry in output.logprobs]) for name, output in outputs.items()}
