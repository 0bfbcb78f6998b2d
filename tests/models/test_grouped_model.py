"""The demo model with the weights of its GGUF as they are: as good as the exact one, and as its blocks say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_model import demo_files
from forward_batches import Stepper

from headway.server.distributed.groups import SINGLE
from headway.server.loading.loader import LoadedModel, Quantization, load_model

ENGLISH = Path(__file__).parents[1] / "support" / "english.txt"


def load(quantization: Quantization) -> LoadedModel:
    return load_model(
        demo_files(),
        dtype="float32",
        device=torch.device("cpu"),
        quantization=quantization,
        load_format="auto",
        group=SINGLE,
        seed=0,
        max_model_len=2048,
    )


@pytest.fixture(scope="module")
def english() -> list[int]:
    import transformers

    path = demo_files().path
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    token_ids: list[int] = tokenizer(ENGLISH.read_text(encoding="utf-8")).input_ids
    return token_ids[:1800]


@pytest.mark.parametrize("pages", [torch.float32, torch.bfloat16], ids=str)
def test_perplexity_is_that_of_exact_activations(english: list[int], pages: torch.dtype) -> None:
    def log_probabilities(quantization: Quantization, pages: torch.dtype) -> torch.Tensor:
        stepper = Stepper(load(quantization).model, num_blocks=128, block_size=16, dtype=pages)
        return stepper.run(english, [len(english)]).log_softmax(-1)

    def perplexity(scores: torch.Tensor) -> float:
        return math.exp(torch.nn.functional.nll_loss(scores[:-1], torch.tensor(english[1:])).item())

    exact, rounded = log_probabilities("none", torch.float32), log_probabilities("gguf", pages)
    before, after = perplexity(exact), perplexity(rounded)
    divergence = torch.nn.functional.kl_div(rounded, exact, log_target=True, reduction="batchmean").item()
    counts = f"fp32 {before:.3f}, gguf with pages in {pages} {after:.3f} ({after / before - 1:+.2%})"
    print(f"perplexity over {len(english)} tokens: {counts}; KL {divergence:.4f}")
    assert abs(after / before - 1) < 0.01
    assert divergence < 0.01
