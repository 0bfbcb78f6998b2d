"""Every family that pools against transformers: the same hidden states and scores, whatever texts share a step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_driver import make_engine
from gguf_files import convert_to_gguf
from pooling_driver import pool, text
from safetensors.torch import load_file, save_file
from tiny_encoders import TINY_CLASSIFIERS, TINY_ENCODERS, make_tiny_encoder, reference_model
from tiny_models import make_tiny_model, transformers_model

from headway.server.errors import ConfigError, ModelSourceError
from headway.server.layers import bidirectional

TOLERANCE = 1e-4  # fp32
LENGTHS = [1, 5, 5, 7, 9, 40, 100, 128, 1]
WIDE = {"max_num_batched_tokens": 1024}


def tokens(seed: int, count: int) -> list[int]:
    """None of them means anything to a model (padding, say)."""
    return random.Random(seed).choices(range(5, 259), k=count)


TEXTS = [tokens(seed, length) for seed, length in enumerate(LENGTHS)]


@torch.inference_mode()
def hidden_states(reference: Any, token_ids: list[int], **inputs: Any) -> np.ndarray[Any, Any]:
    body = getattr(reference, reference.base_model_prefix, reference)
    states: torch.Tensor = body(torch.tensor([token_ids]), **inputs).last_hidden_state[0]
    assert states.std() > 0.1, "a model whose states hardly differ proves nothing"
    return states.numpy()


@pytest.mark.parametrize("name", sorted(TINY_ENCODERS))
def test_every_token_s_state(tmp_path: Path, name: str) -> None:
    files = make_tiny_encoder(name, tmp_path)
    engine = make_engine(files, model={"max_model_len": None}, scheduler=WIDE)
    found = pool(engine, [text(str(i), ids, "token_embed", use_activation=False) for i, ids in enumerate(TEXTS)])
    reference = reference_model(files)
    for ids, states in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(states, hidden_states(reference, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_texts_padded_to_their_neighbours(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: groups of one length, and of several."""
    engine = make_engine(make_tiny_encoder(name, tmp_path), model={"max_model_len": None}, scheduler=WIDE)
    texts = [text(str(i), ids, "token_embed") for i, ids in enumerate(TEXTS)]
    by_length = pool(engine, texts)
    for least_share in (0.7, 0.0):
        monkeypatch.setitem(bidirectional._LEAST_SHARE, "cpu", least_share)
        for padded, plain in zip(pool(engine, texts), by_length, strict=True):
            np.testing.assert_allclose(padded, plain, atol=1e-5)


@pytest.mark.parametrize("name", sorted(TINY_CLASSIFIERS))
def test_scores_of_labels(tmp_path: Path, name: str) -> None:
    files = make_tiny_encoder(name, tmp_path, is_classifier=True)
    engine = make_engine(files, model={"max_model_len": None}, scheduler=WIDE)
    raw, activated = (
        pool(engine, [text(f"{asked}{i}", ids, "classify", use_activation=asked) for i, ids in enumerate(TEXTS)]) for asked in (False, None)
    )
    reference = reference_model(files)
    for ids, scores, probabilities in zip(TEXTS, raw, activated, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0]
        expected = logits.sigmoid() if len(logits) == 1 else logits.softmax(-1)
        np.testing.assert_allclose(scores[0], logits, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(probabilities[0], expected, atol=TOLERANCE, rtol=0)


def test_segments_of_a_pair(tmp_path: Path) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    engine = make_engine(files, model={"max_model_len": None}, scheduler=WIDE)
    ids = tokens(1, 20)
    pair, alone = pool(
        engine,
        [text("pair", ids, "token_embed", first=8, use_activation=False), text("alone", ids, "token_embed", use_activation=False)],
    )
    reference = reference_model(files)
    types = torch.tensor([[0] * 8 + [1] * 12])
    np.testing.assert_allclose(pair, hidden_states(reference, ids, token_type_ids=types), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(alone, hidden_states(reference, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_decoders_pool_their_last_token(tmp_path: Path, name: str) -> None:
    """One text is longer than a step's budget: it is computed in pieces."""
    files = make_tiny_model(name, tmp_path)
    engine = make_engine(
        files, model={"max_model_len": None}, pooling={"runner": "pooling"}, scheduler={"max_num_batched_tokens": 48, "max_num_seqs": 4}
    )
    texts = [*TEXTS, tokens(20, 300)]
    found = pool(engine, [text(str(i), ids) for i, ids in enumerate(texts)])
    reference = transformers_model(files)
    for ids, vector in zip(texts, found, strict=True):
        last = hidden_states(reference, ids)[-1]
        np.testing.assert_allclose(vector[0], last / np.linalg.norm(last), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("saved_as", ["body", "old layer norms"])
def test_checkpoints_under_other_names(tmp_path: Path, saved_as: str) -> None:
    """sentence-transformers saves decoders without their prefix; the first BERTs came from TensorFlow."""
    if saved_as == "body":
        files = make_tiny_model("qwen3", tmp_path)
        renamed = {name.removeprefix("model."): values for name, values in load_file(tmp_path / "model.safetensors").items()}
        del renamed["lm_head.weight"]
    else:
        files = make_tiny_encoder("bert", tmp_path)
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): values
            for name, values in load_file(tmp_path / "model.safetensors").items()
        }
    options = {"model": {"max_model_len": None}, "pooling": {"runner": "pooling"}}
    before = pool(make_engine(files, **options), [text("a", TEXTS[3])])
    save_file(renamed, tmp_path / "model.safetensors")
    after = pool(make_engine(files, **options), [text("a", TEXTS[3])])
    np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(tmp_path: Path, dtype: str) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    exact, close = (
        pool(make_engine(files, model={"max_model_len": None, "dtype": asked}), [text(str(i), ids) for i, ids in enumerate(TEXTS)])
        for asked in ("float32", dtype)
    )
    for a, b in zip(exact, close, strict=True):
        assert (a @ b.T).item() > (0.995 if dtype == "bfloat16" else 0.9999)


def test_a_decoder_s_gguf(tmp_path: Path) -> None:
    files = make_tiny_model("qwen3", tmp_path)
    options = {"model": {"max_model_len": None}, "pooling": {"runner": "pooling"}}
    expected = pool(make_engine(files, **options), [text("a", TEXTS[3])])
    gguf = convert_to_gguf(files, tmp_path / "qwen3.gguf", "qwen3")
    np.testing.assert_allclose(pool(make_engine(gguf, **options), [text("a", TEXTS[3])])[0], expected[0], atol=1e-5)
    with pytest.raises(ModelSourceError, match="safetensors"):
        make_engine(gguf, pooling={"convert": "classify"})
    with pytest.raises(ConfigError, match="--hf-overrides"):
        make_engine(gguf, model={"hf_overrides": {"a": 1}})
