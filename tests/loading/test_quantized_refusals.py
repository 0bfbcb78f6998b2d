"""What of quantised checkpoints is refused: damage, and features that are not supported, each in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_files import Form, awq, bitsandbytes, compressed_int8, compressed_packed, fp8, gptq
from quantized_models import edit_quantization, edit_tensors, load, logits, make, refusal
from tiny_models import make_tiny_model

from headway.server.errors import ModelSourceError
from headway.server.loading.pooled_files import read_pooled

DOWN = "model.layers.1.mlp.down_proj"


def _state(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("form", "changes", "told"),
    [
        (awq(), {f"{DOWN}.scales": None}, " without scales, which its awq format needs"),
        (awq(), {f"{DOWN}.scales": torch.ones(3, 63)}, f"{DOWN}.scales has shape [3, 63], and that of its packing is [3, 64]"),
        (awq(), {f"{DOWN}.qweight": torch.zeros(96, 7, dtype=torch.int32)}, f"tensor {DOWN}.weight has shape [56, 96]"),
        (gptq(), {f"{DOWN}.qzeros": torch.zeros(3, 8)}, f"{DOWN}.qzeros is torch.float32, and should be torch.int32"),
        (gptq(), {f"{DOWN}.g_idx": torch.zeros(96, dtype=torch.int32)}, f"{DOWN}.g_idx does not give each group 32 columns"),
        (gptq(), {f"{DOWN}.g_idx": torch.arange(96).flip(0) // 32}, "the config says that there is none"),
        (gptq(desc_act=True), {f"{DOWN}.g_idx": None}, " without g_idx, which its gptq format needs"),
        (gptq(), {f"{DOWN}.bias": torch.ones(64)}, f"has the tensor {DOWN}.bias, which the model's config has no place for"),
        (
            gptq(),
            {f"{DOWN}.qweight": None, f"{DOWN}.qzeros": None, f"{DOWN}.scales": None, f"{DOWN}.g_idx": None},
            f"lacks the tensor {DOWN}",
        ),
        (compressed_int8(), {f"{DOWN}.weight_scale": None}, f"{DOWN}.weight without weight_scale, which"),
        (compressed_int8(), {f"{DOWN}.weight_scale": torch.ones(7)}, "is neither one number nor one for each of 64 rows"),
        (compressed_int8(), {f"{DOWN}.weight": torch.zeros(64, 96)}, f"{DOWN}.weight is torch.float32, and should be torch.int8"),
        (compressed_packed(symmetric=False), {f"{DOWN}.weight_zero_point": None}, "without weight_zero_point"),
        (fp8(is_blocked=True), {f"{DOWN}.weight_scale_inv": torch.ones(2, 1)}, "has shape [2, 1], and that of its packing is [1, 1]"),
        (bitsandbytes(), {f"{DOWN}.weight.quant_map": None}, f"{DOWN}.weight has no quant_map beside it"),
        (bitsandbytes(), {f"{DOWN}.weight.quant_map": torch.ones(15)}, "has 15 of torch.float32 as quant_map, and its state says 16"),
        (bitsandbytes(), {f"{DOWN}.weight.quant_state.bitsandbytes__nf4": None}, "has scales and no quant_state beside it"),
        (bitsandbytes(), {f"{DOWN}.weight.quant_state.bitsandbytes__nf4": _state("{")}, "that can't be read (JSONDecodeError)"),
        (bitsandbytes(), {f"{DOWN}.weight.quant_state.bitsandbytes__nf4": _state('{"shape": [64]}')}, "that can't be read (ValueError)"),
        (
            bitsandbytes(nested=False),
            {f"{DOWN}.weight.quant_state.bitsandbytes__nf4": _state('{"shape": [64, 96], "blocksize": 0}')},
            "has a quant_state whose sizes are none",
        ),
        (
            bitsandbytes(nested=False),
            {f"{DOWN}.weight.quant_state.bitsandbytes__nf4": _state('{"shape": [64, 95], "blocksize": 64}')},
            f"tensor {DOWN}.weight has shape [64, 95]",
        ),
        (bitsandbytes(), {f"{DOWN}.weight": torch.zeros(7, 1, dtype=torch.uint8)}, "has 7 bytes, and 4 bits for [64, 96] take 3072"),
    ],
    ids=lambda value: "",
)
def test_damage_is_one_sentence(tmp_path: Path, form: Form, changes: dict[str, torch.Tensor | None], told: str) -> None:
    files, _ = make(tmp_path, form)
    edit_tensors(files, **changes)
    text = refusal(files)
    assert told in text
    assert text.endswith(".")


def test_biases_of_zeros_that_tools_add_are_passed_over(tmp_path: Path) -> None:
    files, plain = make(tmp_path, gptq())
    edit_tensors(files, **{f"{DOWN}.bias": torch.zeros(64)})
    torch.testing.assert_close(logits(load(files)), logits(load(plain)), atol=1e-5, rtol=0)


PACKED = compressed_packed().config["config_groups"]["group_0"]


@pytest.mark.parametrize(
    ("form", "changes", "told"),
    [
        (awq(), {"quant_method": "quip"}, "names the 'quip' format, which is not supported"),
        (awq(), {"version": "gemv"}, "version is 'gemv'"),
        (awq(), {"zero_point": False}, "zero_point is false"),
        (awq(), {"bits": 3}, "bits is 3; of AWQ only 4"),
        (gptq(), {"bits": 2}, "bits is 2; of GPTQ 4 and 8"),
        (gptq(), {"group_size": 16}, "group_size is 16; -1 and multiples of 32"),
        (gptq(), {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        (gptq(), {"is_marlin_format": True}, "not Marlin's"),
        (gptq(), {"dynamic": {"-:.*": {}}}, "dynamic gives modules bits of their own"),
        (fp8(is_blocked=True), {"weight_block_size": [64, 128]}, "weight_block_size is [64, 128]"),
        (bitsandbytes(), {"load_in_4bit": False, "load_in_8bit": True}, "load_in_4bit is not true; of bitsandbytes 4 bits are supported"),
        (bitsandbytes(), {"llm_int8_skip_modules": "lm_head"}, "must be a list of names, not 'lm_head'"),
        (fp8(is_blocked=True), {"fmt": "e5m2"}, "fmt is 'e5m2'"),
        (compressed_packed(), {"config_groups": {"a": PACKED, "b": PACKED}}, "several schemes in one model are not supported"),
        (compressed_packed(), {"format": "marlin-24"}, "format is 'marlin-24'"),
        (compressed_packed(), {"sparsity_config": {"format": "sparse-24-bitmask"}}, "only dense weights are supported"),
        (compressed_packed(), {"sparsity_config": [1]}, "sparsity_config must be an object, not [1]"),
        (compressed_packed(), {"ignore": ["re:("]}, "which is no regular expression"),
        (compressed_packed(), {"ignore": ["re:.*"]}, "leaves out every linear layer"),
        (compressed_packed(), {"config_groups": {"a": PACKED | {"input_activations": {"num_bits": 8}}}}, "with activations as they are"),
    ],
    ids=lambda value: "",
)
def test_features_that_are_refused(tmp_path: Path, form: Form, changes: dict[str, Any], told: str) -> None:
    files, _ = make(tmp_path, form)
    edit_quantization(files, **changes)
    assert told in refusal(files)


def test_what_is_transposed_or_pools_is_refused(tmp_path: Path) -> None:
    plain = make_tiny_model("gpt2", tmp_path / "plain")
    path = plain.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": gptq().config}))
    assert "quantised checkpoints of gpt2 are not supported" in refusal(plain)
    files, _ = make(tmp_path / "pooled", awq())
    with pytest.raises(ModelSourceError, match="which is supported for generating text only"):
        read_pooled(files, is_classifier=False)
    with pytest.raises(ModelSourceError, match="--load-format dummy makes no quantised weights"):
        load(files, load_format="dummy")
