"""Large tensors are read in pieces of some rows, whatever becomes of them: the model is the same, and no piece is large."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_files import convert_to_gguf
from gloo_ranks import run_ranks
from quantized_models import load, logits
from tiny_models import make_tiny_model

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.loading import filling
from headway.server.loading.loader import Quantization
from headway.server.source.files import ModelFiles

ROWS = 7  # of the embedding in a piece: no tile, no rank's share and no part ends with one
HIDDEN = 64


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of each tensor that was read since the second load began: the first one reads them whole."""
    found: list[int] = []
    prepared = filling._prepared

    def counting(span: filling.Span, rotation: object) -> filling.Prepared:
        found.append(torch.Size(span.tensor.shape).numel())
        return prepared(span, rotation)  # type: ignore[arg-type]

    monkeypatch.setattr(filling, "_prepared", counting)
    return found


def files_of(kind: str, directory: Path, name: str) -> ModelFiles:
    files = make_tiny_model(name, directory / "plain")
    return files if kind == "safetensors" else convert_to_gguf(files, directory / "model.gguf", "llama", type_name=kind)


@pytest.mark.parametrize(
    ("kind", "quantization", "name"),
    [
        ("safetensors", "none", "llama"),
        ("safetensors", "int8", "llama-tied"),
        ("safetensors", "int4", "llama"),
        ("safetensors", "w8a8", "llama-tied"),
        ("Q4_0", "gguf", "llama"),
        ("Q8_0", "gguf", "llama-tied"),
        ("F32", "int8", "llama"),
    ],
)
def test_the_model_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[int], kind: str, quantization: Quantization, name: str
) -> None:
    files = files_of(kind, tmp_path, name)
    whole = load(files, quantization)
    largest, num_tensors = max(pieces), len(pieces)
    pieces.clear()
    monkeypatch.setattr(filling, "_ELEMENTS_A_SPAN", ROWS * HIDDEN)
    in_pieces = load(files, quantization)
    assert torch.equal(logits(in_pieces), logits(whole))
    assert in_pieces.weight_bytes == whole.weight_bytes
    assert max(pieces) < largest / 2, "the embedding is not read whole"
    assert len(pieces) > num_tensors + 30


@pytest.mark.parametrize("quantization", ["none", "gguf", "gguf_a16"])
def test_ranks_take_their_rows_of_each_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: Quantization) -> None:
    """Of some pieces none, where they are rounded as they come too."""
    files = make_tiny_model("llama", tmp_path / "hf", vocab_size=260, intermediate_size=128, head_dim=32)
    if quantization != "none":
        files = convert_to_gguf(files, tmp_path / "m.gguf", "llama")
    whole = logits(load(files, quantization))
    monkeypatch.setattr(filling, "_ELEMENTS_A_SPAN", ROWS * HIDDEN)

    def work(group: TensorParallelGroup) -> torch.Tensor:
        return logits(load(files, quantization, group))

    for found in run_ranks(2, work):  # each rounds activations by itself, where they are
        assert (found - whole).norm() < (0.05 if quantization == "gguf" else 1e-4) * whole.norm()
