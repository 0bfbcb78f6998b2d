"""Logits that a model gives with its hidden states are those of its head, which is asked wherever it does more than a product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forward_batches import Sequence, Stepper
from tiny_models import make_tiny_model

from headway.kernels.cpu.native.library import library
from headway.server.distributed.groups import SINGLE
from headway.server.distributed.places import PipelineStage
from headway.server.loading.loader import load_model
from headway.server.models.base import Model
from headway.server.models.taps import LayerTaps
from headway.server.source.files import ModelFiles

CPU = torch.device("cpu")
TOKENS = [5 + i * 11 % 250 for i in range(20)]
CHUNKS = [12, *[1] * 8]
# A granite whose layers are those of a llama.
GRANITE: dict[str, Any] = {"residual_multiplier": 1.0, "attention_multiplier": 0.25}


def load(files: ModelFiles, **how: Any) -> Model:
    how = {"dtype": "float32", "device": CPU, "quantization": "int4", "load_format": "auto", "group": SINGLE, "seed": 0, **how}
    return load_model(files, **how).model


@pytest.mark.parametrize(
    ("name", "changes", "is_in_call"),
    [
        ("llama", {}, True),
        ("llama-tied", {}, True),
        ("llama-biased", {}, True),
        ("qwen2-window", {}, True),
        ("granite", {**GRANITE, "logits_scaling": 1.0}, True),  # whose embedding is scaled
        ("granite", GRANITE, False),  # and whose logits are
        ("gemma2", {}, False),  # capped, and with layers of another kind
        ("gpt2", {}, False),  # norms of another kind
    ],
)
def test_logits_are_those_of_the_head(tmp_path: Path, name: str, changes: dict[str, Any], is_in_call: bool) -> None:
    model = load(make_tiny_model(name, tmp_path, **changes))
    asked = Stepper(model, wants_head=True)
    assert asked.run(TOKENS, CHUNKS).equal(Stepper(model).run(TOKENS, CHUNKS))
    assert asked.num_heads == (8 if is_in_call and library() is not None else 0)


@pytest.mark.skipif(library() is None, reason="torch's product of some rows is not that of one to the bit")
def test_rows_together_have_the_logits_of_each_alone(tmp_path: Path) -> None:
    model = load(make_tiny_model("llama", tmp_path))
    rows = [Sequence(TOKENS[i:]) for i in range(3)]
    stepper = Stepper(model, wants_head=True)
    together = [torch.cat(logits) for logits in zip(*(stepper.step([(row, 1) for row in rows]) for _ in range(4)), strict=True)]
    for i, logits in enumerate(together):
        assert logits.equal(Stepper(model).run(TOKENS[i : i + 4], [1] * 4))


def test_only_the_last_stage_has_a_head(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    expected = Stepper(load(files)).run(TOKENS[:1], [1])
    given = None
    for index in range(2):
        stepper = Stepper(load(files, stage=PipelineStage(index, 2)))
        batch, token_ids = stepper._batch([(Sequence(TOKENS[:1]), 1)])
        batch.wants_head = True
        with torch.inference_mode():
            given = stepper.model.forward(token_ids if given is None else given, stepper.kv, batch)
        assert index == 1 or batch.head is None
    assert given is not None
    assert batch.head is not None or library() is None
    assert (stepper.model.logits(given) if batch.head is None else batch.head.logits).equal(expected)


def test_where_layers_are_watched_the_head_is_asked(tmp_path: Path) -> None:
    """By a draft model that reads what stands between them."""
    model: Any = load(make_tiny_model("llama", tmp_path))
    expected = Stepper(model).run(TOKENS, CHUNKS)
    model.taps = LayerTaps((1, 2), 32, 64, dtype=torch.float32, device=CPU)
    asked = Stepper(model, wants_head=True)
    assert asked.run(TOKENS, CHUNKS).equal(expected)
    assert asked.num_heads == 0
