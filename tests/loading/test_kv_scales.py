"""Scales of a KV cache in fp8 from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model

from headway.kernels.kv_cache import UNSCALED, KVScales
from headway.server.distributed.groups import SINGLE
from headway.server.errors import ModelSourceError
from headway.server.layers.attention import Attention
from headway.server.loading.loader import load_model


def scales(directory: Path, **tensors: torch.Tensor) -> dict[str, KVScales]:
    """Of each layer of a tiny model whose checkpoint has these tensors in its layers, too."""
    files = make_tiny_model("llama", directory)
    path = files.path / "model.safetensors"
    more = {f"model.layers.{name}": tensor for name, tensor in tensors.items()}
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()} | more, path)
    loaded = load_model(files, dtype="float32", device=torch.device("cpu"), quantization="none", load_format="auto", group=SINGLE, seed=0)
    return {name: layer.kv_scales for name, layer in loaded.model.named_layers() if isinstance(layer, Attention)}


def test_both_spellings(tmp_path: Path) -> None:
    found = scales(
        tmp_path,
        **{
            "0.self_attn.k_scale": torch.tensor(0.5),
            "0.self_attn.v_scale": torch.tensor([0.25], dtype=torch.bfloat16),
            "0.self_attn.q_scale": torch.tensor(3.0),
            "1.self_attn.v_proj.v_scale": torch.tensor(2.0),
        },
    )
    assert found["layers.0.attention"] == KVScales(0.5, 0.25)
    assert found["layers.1.attention"] == KVScales(1.0, 2.0)


def test_none(tmp_path: Path) -> None:
    assert set(scales(tmp_path).values()) == {UNSCALED}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(0.0),
        torch.tensor(float("nan")),
        torch.tensor(-1.0),
        torch.ones(2),
        torch.tensor(1e-60, dtype=torch.float64),
        torch.tensor(1e60, dtype=torch.float64),
    ],
    ids=str,
)
def test_what_is_no_scale(tmp_path: Path, value: torch.Tensor) -> None:
    with pytest.raises(ModelSourceError, match=r"model\.layers\.1\.self_attn\.k_scale .* not one number above 0"):
        scales(tmp_path, **{"1.self_attn.k_scale": value})
