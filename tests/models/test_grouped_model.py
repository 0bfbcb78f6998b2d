"""The demo model with the weights of its GGUF as they are: as good as the exact one, and as its blocks say."""

from __future__ import annotations

import pytest
import torch
from demo_model import demo_files
from forward_batches import Stepper
from gloo_ranks import run_ranks
from perplexity import divergence, english_tokens, log_probabilities, perplexity

from headway.kernels.kv_cache import FP8, INT8
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.loading.loader import LoadedModel, Quantization, load_model


def load(quantization: Quantization, group: TensorParallelGroup = SINGLE) -> LoadedModel:
    return load_model(
        demo_files(),
        dtype="float32",
        device=torch.device("cpu"),
        quantization=quantization,
        load_format="auto",
        group=group,
        seed=0,
        max_model_len=2048,
    )


@pytest.fixture(scope="module")
def grouped() -> LoadedModel:
    return load("gguf")


@pytest.mark.parametrize("pages", [torch.float32, torch.bfloat16], ids=str)
def test_perplexity_is_that_of_exact_activations(grouped: LoadedModel, pages: torch.dtype) -> None:
    english = english_tokens()[:1800]
    exact = log_probabilities(load("none").model, english)
    rounded = log_probabilities(grouped.model, english, dtype=pages)
    before, after, kl = perplexity(exact, english), perplexity(rounded, english), divergence(rounded, exact)
    counts = f"fp32 {before:.3f}, gguf with pages in {pages} {after:.3f} ({after / before - 1:+.2%})"
    print(f"perplexity over {len(english)} tokens: {counts}; KL {kl:.4f}")
    assert abs(after / before - 1) < 0.01
    assert kl < 0.01


@pytest.mark.parametrize("pages", [FP8, INT8], ids=str)
def test_rounded_pages_are_read_by_steps_of_one_token(grouped: LoadedModel, pages: torch.dtype) -> None:
    """The kernel that computes such a step's whole layer does not know pages in fp8, and writes and reads those in int8 itself."""
    english = english_tokens()[:40]
    whole = Stepper(grouped.model, dtype=pages).run(english, [40]).log_softmax(-1)
    stepped = Stepper(grouped.model, dtype=pages).run(english, [32, *[1] * 8]).log_softmax(-1)
    assert divergence(stepped, whole) < 0.01


def test_layers_in_one_call_are_those_of_a_call_each_wherever_pages_are(grouped: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a sleep, which gives a model other pages, and where somebody follows a step layer by layer."""
    english = english_tokens()[:40]
    steppers = [Stepper(grouped.model) for _ in range(3)]
    together = [stepper.run(english, [32, *[1] * 8]) for stepper in steppers[:2]]
    monkeypatch.setitem(vars(grouped.model), "_fused", None)
    one_by_one = steppers[2].run(english, [32, *[1] * 8])
    assert all(logits.equal(one_by_one) for logits in together)


def test_blocks_are_cut_over_ranks(grouped: LoadedModel) -> None:
    """Activations are rounded on each rank by itself, so that no two are alike to the last bit."""
    english = english_tokens()[:128]
    whole = log_probabilities(grouped.model, english)
    for parts in run_ranks(3, lambda group: log_probabilities(load("gguf", group).model, english)):
        assert divergence(parts, whole) < 0.01
