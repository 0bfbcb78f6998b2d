"""Every family against transformers: the same logits however the tokens are cut into steps and wherever the pages lie."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_batches import Sequence, Stepper
from tiny_models import TINY_MODELS, make_tiny_model, transformers_model

from headway.kernels.linear import pack_linear
from headway.server.distributed.groups import SINGLE
from headway.server.loading.loader import LoadedModel, load_model

TOLERANCE = 1e-4  # fp32
NUM_TOKENS = 40


@pytest.fixture(scope="module", params=sorted(TINY_MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    files = make_tiny_model(request.param, tmp_path_factory.mktemp(request.param))
    return load(files), transformers_model(files)


def load(files: Any) -> LoadedModel:
    return load_model(files, dtype="float32", device=torch.device("cpu"), quantization="none", load_format="auto", group=SINGLE, seed=0)


def tokens(seed: int, count: int = NUM_TOKENS) -> list[int]:
    return random.Random(seed).choices(range(259), k=count)


@torch.inference_mode()
def expected(reference: Any, token_ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = reference(torch.tensor([token_ids])).logits[0]
    assert logits.std() > 0.1, "a model whose logits hardly differ proves nothing"
    return logits


@pytest.mark.parametrize(
    "chunks",
    [[NUM_TOKENS], [13, 4, 17, 6], [1] * NUM_TOKENS, [30, *[1] * 10], [1, 38, 1]],
    ids=["whole", "chunks", "single", "prefill-decode", "mixed"],
)
def test_logits_do_not_depend_on_chunks(pair: tuple[LoadedModel, Any], chunks: list[int]) -> None:
    loaded, reference = pair
    token_ids = tokens(1)
    logits = Stepper(loaded.model).run(token_ids, chunks)
    torch.testing.assert_close(logits, expected(reference, token_ids), atol=TOLERANCE, rtol=0)


def test_rows_of_a_mixed_batch_do_not_see_each_other(pair: tuple[LoadedModel, Any]) -> None:
    loaded, reference = pair
    stepper = Stepper(loaded.model, seed=3)
    sequences = [Sequence(tokens(10 + i, 24 + i)) for i in range(5)]
    plans = [[5, 20, 9, 2, 14], [1, 1, 4, 11, 1], [18, 1, 1, 1, 12], [0, 3, 12, 13, 0]]
    seen: list[list[torch.Tensor]] = [[] for _ in sequences]
    for plan in plans:
        work = [(sequence, n) for sequence, n in zip(sequences, plan, strict=True) if n]
        for (sequence, _), logits in zip(work, stepper.step(work), strict=True):
            seen[sequences.index(sequence)].append(logits)
    for sequence, parts in zip(sequences, seen, strict=True):
        done = sequence.token_ids[: sequence.num_computed]
        assert len(done) > 20
        torch.testing.assert_close(torch.cat(parts), expected(reference, done), atol=TOLERANCE, rtol=0)


def test_shards_of_an_index(tmp_path: Path) -> None:
    whole = load(make_tiny_model("qwen3", tmp_path / "whole", seed=5))
    files = make_tiny_model("qwen3", tmp_path / "sharded", seed=5, max_shard_size="60KB")
    assert len(list(files.path.glob("*.safetensors"))) > 2
    a, b = (Stepper(loaded.model).run(tokens(2), [NUM_TOKENS]) for loaded in (whole, load(files)))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", "bfloat16"), ("llama", "float16"), ("gemma3", "bfloat16"), ("olmo2", "float16"), ("cohere-plus", "bfloat16")],
)
def test_half_precision_stays_close(tmp_path: Path, name: str, dtype: str) -> None:
    files = make_tiny_model(name, tmp_path)
    loaded = load_model(files, dtype=dtype, device=torch.device("cpu"), quantization="none", load_format="auto", group=SINGLE, seed=0)
    logits = Stepper(loaded.model, dtype=getattr(torch, dtype)).run(tokens(1), [33, 1, 6])
    reference = expected(transformers_model(files), tokens(1))
    assert logits.dtype == torch.float32
    assert ((logits - reference).square().mean() / reference.square().mean()).sqrt() < {"bfloat16": 0.05, "float16": 0.01}[dtype]


def test_weight_bytes_count_what_is_kept(tmp_path: Path) -> None:
    for name in ("llama", "llama-tied", "qwen2"):
        files = make_tiny_model(name, tmp_path / name)
        model = transformers_model(files)
        expected = sum(p.numel() * 4 for p in model.parameters())
        table = model.get_input_embeddings().weight
        probe = torch.zeros(8, 8)
        if model.config.tie_word_embeddings and pack_linear(probe).data is not probe:
            expected += table.numel() * 4  # the head has the table once more, in the layout of the CPU's matrix product
        assert load(files).weight_bytes == expected
