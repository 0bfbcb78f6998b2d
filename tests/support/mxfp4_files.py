"""gpt-oss's experts rounded to MXFP4, and the same weights in full as transformers reads those blocks."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from headway.server.source.files import ModelFiles


def make_gpt_oss(tmp_path: Path) -> tuple[ModelFiles, ModelFiles]:
    """(a tiny one as it is published, the same as plain numbers)."""
    changes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    files = make_tiny_model("gpt-oss", tmp_path / "quantised", **changes)
    plain = make_tiny_model("gpt-oss", tmp_path / "plain", **changes)
    quantize_experts(files.path / "model.safetensors", plain.path / "model.safetensors")
    config = json.loads((files.path / "config.json").read_text())
    (files.path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    return files, plain


def quantize_experts(path: Path, plain: Path) -> None:
    """Replaces the experts' matrices of ``path`` by blocks and scales, and writes into ``plain`` what they stand for, in fp32."""
    tensors = load_file(path)
    whole = dict(tensors)
    for name in list(tensors):
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales = _blocks(tensors.pop(name).transpose(1, 2))
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            whole[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    save_file(tensors, path)
    save_file(whole, plain)


def _blocks(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[E, N, K] -> blocks [E, N, K / 32, 16] and scales [E, N, K / 32]."""
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    grid = torch.cat([grid, -grid])
    groups = values.reshape(*values.shape[:2], -1, 32)
    exponents = (groups.abs().amax(-1, keepdim=True) / 6).clamp(min=1e-20).log2().ceil()
    nearest = ((groups / exponents.exp2()).unsqueeze(-1) - grid).abs().argmin(-1).to(torch.uint8)
    return nearest[..., 0::2] | nearest[..., 1::2] << 4, (exponents.squeeze(-1) + 127).to(torch.uint8)
