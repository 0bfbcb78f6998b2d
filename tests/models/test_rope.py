"""Rotary embeddings that depend on a text's length are those of the longest text that is served, at any time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_batches import Stepper
from tiny_models import LONG_ROPE, make_tiny_model, transformers_model

from headway.server.distributed.groups import SINGLE
from headway.server.errors import ModelSourceError
from headway.server.layers.rope_config import NO_ROPE, RopeConfig
from headway.server.layers.rotary import rope_table
from headway.server.loading.loader import load_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}


def difference(files: ModelFiles, num_tokens: int, max_model_len: int) -> float:
    """The largest, of logits of a text cut into steps, from those of transformers."""
    token_ids = random.Random(1).choices(range(259), k=num_tokens)
    loaded = load_model(
        files,
        dtype="float32",
        device=torch.device("cpu"),
        quantization="none",
        load_format="auto",
        group=SINGLE,
        seed=0,
        max_model_len=max_model_len,
    )
    found = Stepper(loaded.model).run(token_ids, [num_tokens - 8, *[1] * 8])
    with torch.inference_mode():
        return float((found - transformers_model(files)(torch.tensor([token_ids])).logits[0]).abs().max())


@pytest.mark.parametrize(("num_tokens", "max_model_len"), [(40, 64), (90, 90), (150, 150)])
def test_dynamic_scaling(tmp_path: Path, num_tokens: int, max_model_len: int) -> None:
    files = make_tiny_model("llama", tmp_path, rope_parameters=DYNAMIC, max_position_embeddings=64)
    assert read_config(files).max_model_len == 192
    assert difference(files, num_tokens, max_model_len) < 1e-4
    if num_tokens > 64:
        assert difference(files, num_tokens, 192) > 1e-2


@pytest.mark.parametrize(("max_model_len", "is_near"), [(64, True), (65, False)])
def test_long_rope_of_short_contexts(tmp_path: Path, max_model_len: int, is_near: bool) -> None:
    changes: dict[str, Any] = {
        "rope_parameters": LONG_ROPE | {"original_max_position_embeddings": 64},
        "original_max_position_embeddings": 64,
    }
    files = make_tiny_model("phi4-mini", tmp_path, **changes)
    assert (difference(files, 40, max_model_len) < 1e-4) is is_near


@pytest.mark.parametrize("factors", [None, [1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]])
def test_factors_that_do_not_fit(tmp_path: Path, factors: Any) -> None:
    files = make_tiny_model("phi4-mini", tmp_path)
    with pytest.raises(ModelSourceError, match="long_factor of its rope parameters must be 6 numbers above 0"):
        read_config(files, {"rope_parameters": {"long_factor": factors}})


def test_a_layer_without_rope_turns_nothing() -> None:
    table = rope_table(NO_ROPE, 7, torch.device("cpu"))
    assert table.tolist() == [[1.0, 0.0]] * 7


def test_a_dynamic_base_grows_with_the_longest_text() -> None:
    config = RopeConfig(16, 10000.0, "dynamic", 3.0, 64)
    plain, same, longer = (rope_table(c, n, torch.device("cpu"))[:64] for c, n in ((RopeConfig(16, 1e4), 64), (config, 64), (config, 65)))
    assert torch.equal(plain, same)
    assert not torch.allclose(plain, longer)
