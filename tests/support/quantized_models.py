"""Tiny quantised models loaded and run, and their files changed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_batches import Stepper
from quantized_files import Form, quantize_files
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model

from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.errors import ModelSourceError
from headway.server.loading.loader import LoadedModel, LoadFormat, Quantization, load_model
from headway.server.source.files import ModelFiles

TOKEN_IDS = random.Random(0).choices(range(259), k=24)


def load(
    files: ModelFiles,
    quantization: Quantization = "none",
    group: TensorParallelGroup = SINGLE,
    load_format: LoadFormat = "auto",
    *,
    has_whole_experts: bool = False,
    num_redundant_experts: int | None = None,
) -> LoadedModel:
    return load_model(
        files,
        dtype="float32",
        device=torch.device("cpu"),
        quantization=quantization,
        load_format=load_format,
        group=group,
        seed=0,
        has_whole_experts=has_whole_experts,
        num_redundant_experts=num_redundant_experts,
    )


def logits(loaded: LoadedModel) -> torch.Tensor:
    return Stepper(loaded.model).run(TOKEN_IDS, [18, 1, 5])


def make(tmp_path: Path, form: Form, name: str = "llama", **changes: Any) -> tuple[ModelFiles, ModelFiles]:
    """(quantised, the same as plain numbers)."""
    plain = make_tiny_model(name, tmp_path / "plain", **changes)
    return quantize_files(plain, tmp_path / "quantised", form), plain


def edit_tensors(files: ModelFiles, **changes: torch.Tensor | None) -> None:
    path = files.path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()} | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def refusal(files: ModelFiles) -> str:
    with pytest.raises(ModelSourceError) as caught:
        load(files, "kept")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_quantization(files: ModelFiles, **changes: Any) -> None:
    path = files.path / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] |= changes
    path.write_text(json.dumps(values))
