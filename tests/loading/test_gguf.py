"""GGUF files give the model that they were made from."""

from __future__ import annotations

import json
import math
import random
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from forward_batches import Stepper
from gguf_files import convert_to_gguf
from tiny_models import YARN_ROPE, make_tiny_model

from headway.server.distributed.groups import SINGLE
from headway.server.errors import ModelSourceError
from headway.server.loading.ggml_formats import dequantize
from headway.server.loading.gguf_file import GgufFile
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles

LONG_METADATA = {"rope.scaling.attn_factor": math.sqrt(1 + math.log(512 / 16) / math.log(16)), "rope.scaling.original_context_length": 16}
GGUF_METADATA: dict[str, dict[str, Any]] = {"phi4-mini": LONG_METADATA}
TOKEN_IDS = random.Random(0).choices(range(259), k=30)


def load(files: ModelFiles, quantization: Quantization = "none") -> LoadedModel:
    device = torch.device("cpu")
    return load_model(files, dtype="float32", device=device, quantization=quantization, load_format="auto", group=SINGLE, seed=0)


def logits(files: ModelFiles) -> torch.Tensor:
    return Stepper(load(files).model).run(TOKEN_IDS, [25, 1, 4])


@pytest.mark.parametrize(
    ("name", "architecture", "changes"),
    [
        ("llama", "llama", {}),
        ("llama-tied", "llama", {}),
        ("llama-biased", "llama", {}),
        ("llama-llama3", "llama", {}),
        ("mistral-full", "llama", {}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen3", {}),
        ("qwen2-moe", "qwen2moe", {}),
        ("qwen3-moe", "qwen3moe", {}),
        ("gemma", "gemma", {}),
        ("gemma2", "gemma2", {"query_pre_attn_scalar": 24}),
        ("gemma3", "gemma3", {"query_pre_attn_scalar": 24, "rope_parameters": None, "layer_types": None, "num_hidden_layers": 6}),
        ("phi3", "phi3", {}),
        ("phi4-mini", "phi3", {}),
        ("granite", "granite", {}),
        ("olmo2", "olmo2", {}),
        ("cohere", "command-r", {}),
        ("cohere-plus", "command-r", {"tie_word_embeddings": True}),
        ("cohere2", "cohere2", {"layer_types": None, "num_hidden_layers": 4, "tie_word_embeddings": True}),
        ("gpt2", "gpt2", {}),
        ("starcoder2", "starcoder2", {}),
        ("smollm3", "smollm3", {"no_rope_layers": None, "num_hidden_layers": 4}),
    ],
)
def test_same_logits_as_the_safetensors_it_was_made_from(tmp_path: Path, name: str, architecture: str, changes: dict[str, Any]) -> None:
    original = make_tiny_model(name, tmp_path / "hf", **changes)
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", architecture, metadata=GGUF_METADATA.get(name))
    torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)
    config = read_config(converted)
    assert not config.is_quantized_gguf
    assert config.checkpoint_dtype == "float32"
    assert config.max_model_len == 512


def test_scaling_and_window_in_the_metadata(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": YARN_ROPE["factor"],
        "rope.scaling.original_context_length": YARN_ROPE["original_max_position_embeddings"],
    }
    original = make_tiny_model("llama-yarn", tmp_path / "yarn")
    converted = convert_to_gguf(original, tmp_path / "yarn.gguf", "llama", metadata=metadata)
    torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)
    for name, window in (("mistral", 7), ("mixtral", 9)):
        original = make_tiny_model(name, tmp_path / name)
        converted = convert_to_gguf(original, tmp_path / f"{name}.gguf", "llama", metadata={"attention.sliding_window": window})
        torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)
    original = make_tiny_model("gpt-oss", tmp_path / "gpt-oss")
    converted = convert_to_gguf(original, tmp_path / "oss.gguf", "gpt-oss", metadata=metadata | {"attention.sliding_window": 9})
    torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)


# Files do not say mscale, and take it for the same as mscale_all_dim.
LATENT = {"rope_parameters": YARN_ROPE | {"mscale": 0.7, "mscale_all_dim": 0.7}}


@pytest.mark.parametrize("has_whole_latents", [False, True])
@pytest.mark.parametrize(("name", "changes"), [("deepseek-v2", LATENT), ("deepseek-v2-lite", {}), ("deepseek-v3", LATENT)])
def test_latents_in_one_tensor_or_two(tmp_path: Path, name: str, changes: dict[str, Any], has_whole_latents: bool) -> None:
    original = make_tiny_model(name, tmp_path / "hf", **changes)
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", "deepseek2", has_whole_latents=has_whole_latents)
    torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)
    config, expected = read_config(converted), read_config(original)
    assert (config.mixture, config.latent, config.max_model_len) == (expected.mixture, expected.latent, expected.max_model_len)


def test_latents_keep_their_experts_in_4_bits(tmp_path: Path) -> None:
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", intermediate_size=128, q_lora_rank=32, v_head_dim=16, **LATENT)
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", "deepseek2", type_name="Q4_0")
    kept, exact = load(converted, "gguf"), load(converted)
    found, expected = (Stepper(it.model).run(TOKEN_IDS, [25, 1, 4]) for it in (kept, exact))
    assert 0 < (found - expected).norm() / expected.norm() < 0.05
    linears = kept.config.four_bit_linears
    assert {"layers.0.down.weight", "layers.1.moe.routed.experts.7.down.weight", "layers.2.latent.kv_a.weight"} <= linears
    assert kept.weight_bytes < exact.weight_bytes / 3


@pytest.mark.parametrize("type_name", ["F32", "Q4_0"])
def test_experts_whose_gates_are_in_one_stack_with_what_they_let_through(tmp_path: Path, type_name: str) -> None:
    original = make_tiny_model("qwen3-moe", tmp_path / "hf", intermediate_size=128)
    fused, apart = (
        load(convert_to_gguf(original, tmp_path / name, "qwen3moe", type_name=type_name, is_fused=name == "fused.gguf"), kind)
        for name in ("fused.gguf", "apart.gguf")
        for kind in (("gguf" if type_name == "Q4_0" else "none"),)
    )
    assert fused.config == apart.config
    assert torch.equal(*(Stepper(it.model).run(TOKEN_IDS, [25, 1, 4]) for it in (fused, apart)))


def test_the_gate_of_a_shared_expert_as_a_vector(tmp_path: Path) -> None:
    original = make_tiny_model("qwen2-moe", tmp_path / "hf")
    flat = convert_to_gguf(original, tmp_path / "m.gguf", "qwen2moe", squeezes=True)
    assert GgufFile(flat.path).index["blk.0.ffn_gate_inp_shexp.weight"].shape == (64,)
    torch.testing.assert_close(logits(flat), logits(original), atol=1e-4, rtol=0)


def test_experts_in_mxfp4_are_near_and_kept_in_8_bits(tmp_path: Path) -> None:
    """As gpt-oss is published. Rounded activations change which experts a token has, in a model so small: Q8_0 is as far off."""
    original = make_tiny_model("gpt-oss", tmp_path / "hf", intermediate_size=32)
    metadata = {"attention.sliding_window": 9, "expert_feed_forward_length": 32}
    converted = convert_to_gguf(original, tmp_path / "m.gguf", "gpt-oss", type_name="MXFP4", metadata=metadata)
    kept, exact = load(converted, "gguf"), load(converted)
    found, expected = (Stepper(it.model).run(TOKEN_IDS, [25, 1, 4]) for it in (kept, exact))
    assert 0 < (found - expected).norm() / expected.norm() < 0.2
    assert kept.weight_bytes < exact.weight_bytes / 2


def test_groups_of_experts_that_old_files_do_not_say(tmp_path: Path) -> None:
    """The published models of as many experts have them."""
    original = make_tiny_model("deepseek-v2", tmp_path / "hf", n_routed_experts=160, n_group=8, topk_group=3, num_hidden_layers=2, **LATENT)
    unsaid = {"expert_group_count": None, "expert_group_used_count": None}
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", "deepseek2", metadata=unsaid, has_whole_latents=True)
    assert read_config(converted).mixture == read_config(original).mixture
    other = make_tiny_model("deepseek-v2-lite", tmp_path / "lite")
    assert read_config(convert_to_gguf(other, tmp_path / "lite.gguf", "deepseek2", metadata=unsaid)).mixture == read_config(other).mixture


def test_sigmoids_that_a_file_does_not_say(tmp_path: Path) -> None:
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", **LATENT)
    for said in (None, 0):
        converted = convert_to_gguf(original, tmp_path / f"{said}.gguf", "deepseek2", metadata={"expert_gating_func": said})
        assert read_config(converted).mixture == read_config(original).mixture


def test_layers_for_drafts_are_left_out(tmp_path: Path) -> None:
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", **LATENT)
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", "deepseek2", metadata={"nextn_predict_layers": 1})
    config_json = tmp_path / "hf" / "config.json"
    values = json.loads(config_json.read_text())
    config_json.write_text(json.dumps(values | {"num_hidden_layers": 2, "num_nextn_predict_layers": 1, "layer_types": None}))
    torch.testing.assert_close(logits(converted), logits(original), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"attention.temperature_scale": 0.1}, "attention.temperature_scale is 0.1"),
        ({"expert_gating_func": 3}, "expert_gating_func is 3, which is not supported for deepseek2"),
        ({"expert_count": None}, "n_routed_experts is missing"),
        ({"rope.dimension_count": None}, "qk_nope_head_dim is missing"),
        ({"attention.key_length_mla": 8}, "qk_nope_head_dim must be from 1"),
        ({"rope.scaling.yarn_attn_factor": 2.0}, "magnitude of its own"),
        ({"nextn_predict_layers": 3}, "num_hidden_layers must be from 1"),
        ({"expert_weights_scale": "a lot"}, "routed_scaling_factor must be a number"),
    ],
)
def test_what_latents_can_not_have(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", **LATENT)
    with pytest.raises(ModelSourceError, match=message):
        read_config(convert_to_gguf(original, tmp_path / "tiny.gguf", "deepseek2", metadata=metadata))


@pytest.mark.parametrize(("type_name", "limit"), [("F16", 0.01), ("BF16", 0.05), ("Q8_0", 0.05), ("Q4_1", 0.7)])
def test_quantised_files_are_near(tmp_path: Path, type_name: str, limit: float) -> None:
    original = make_tiny_model("llama", tmp_path / "hf", intermediate_size=128)
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", "llama", type_name=type_name)
    exact = logits(original)
    assert 0 < (logits(converted) - exact).norm() / exact.norm() < limit
    config = read_config(converted)
    assert config.is_quantized_gguf == type_name.startswith("Q")
    assert config.checkpoint_dtype == {"F16": "float16"}.get(type_name, "bfloat16")


@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-biased", "mistral-full", "qwen2", "qwen3", "qwen3-moe"])
@pytest.mark.parametrize(("type_name", "is_kept"), [("Q4_0", True), ("Q4_1", True), ("Q5_1", False), ("Q8_0", False)])
def test_blocks_that_are_kept_are_the_dequantised_weights(tmp_path: Path, name: str, type_name: str, is_kept: bool) -> None:
    """Up to the rounding of activations; rows of heads in their order, parts of fused weights in theirs."""
    original = make_tiny_model(name, tmp_path / "hf", intermediate_size=128)
    architecture = {"mistral-full": "llama", "qwen3-moe": "qwen3moe"}.get(name, name.split("-")[0])
    converted = convert_to_gguf(original, tmp_path / "tiny.gguf", architecture, type_name=type_name)
    kept, exact = load(converted, "gguf"), load(converted)
    assert bool(kept.config.four_bit_linears) == is_kept
    assert kept.weight_format == "GGUF blocks (8-bit activations)"
    found, expected = (Stepper(it.model).run(TOKEN_IDS, [25, 1, 4]) for it in (kept, exact))
    assert 0 < (found - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "TQ1_0", "F16", "F32"])
@pytest.mark.parametrize("shape", [(3, 256), (700, 512)])
def test_every_format_equals_the_gguf_package(name: str, shape: tuple[int, int]) -> None:
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    data = gguf.quants.quantize(values, kind).view(np.uint8)
    expected = gguf.quants.dequantize(data if kind.value > 1 else data.view(np.float32 if name == "F32" else np.float16), kind)
    assert np.array_equal(dequantize(data, kind.value).reshape(shape), expected.reshape(shape))


def test_a_model_in_several_files(tmp_path: Path) -> None:
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", **LATENT)
    parts = convert_to_gguf(original, tmp_path / "m.gguf", "deepseek2", tensors_a_part=20)
    names = sorted(path.name for path in tmp_path.glob("m-*.gguf"))
    assert names[::2] == ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]
    torch.testing.assert_close(logits(parts), logits(original), atol=1e-4, rtol=0)
    (tmp_path / names[2]).write_bytes((tmp_path / names[1]).read_bytes())
    with pytest.raises(
        ModelSourceError, match=r"00003-of-00003.gguf has the name of part 3 of 3 of a model and the content of part 2 of 3"
    ):
        read_config(parts)
    (tmp_path / "renamed.gguf").write_bytes(parts.path.read_bytes())
    with pytest.raises(ModelSourceError, match=r"renamed.gguf has the name of a whole model and the content of part 1 of 3"):
        read_config(ModelFiles("gguf", None, tmp_path / "renamed.gguf", "renamed"))
    (tmp_path / names[2]).unlink()
    with pytest.raises(ModelSourceError, match=r"m-00003-of-00003.gguf cannot be read: No such file"):
        read_config(parts)


def test_a_mixture_of_a_family_that_has_none_is_refused(tmp_path: Path) -> None:
    original = make_tiny_model("qwen2", tmp_path / "hf")
    converted = convert_to_gguf(original, tmp_path / "moe.gguf", "qwen2", metadata={"expert_count": 8})
    with pytest.raises(ModelSourceError, match="expert_count is 8"):
        read_config(converted)


def test_unknown_architecture_and_damage(tmp_path: Path) -> None:
    original = make_tiny_model("llama", tmp_path / "hf")
    with pytest.raises(ModelSourceError, match=r"zebra.*not supported; these are: llama, qwen2, qwen3"):
        read_config(convert_to_gguf(original, tmp_path / "zebra.gguf", "zebra"))
    whole = convert_to_gguf(original, tmp_path / "whole.gguf", "llama").path.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-5000])
    with pytest.raises(ModelSourceError, match=r"tensor .* the file is cut off"):
        load(ModelFiles("gguf", None, cut, "cut"))
    cut.write_bytes(whole[:200])
    with pytest.raises(ModelSourceError, match="damaged or cut off"):
        read_config(ModelFiles("gguf", None, cut, "cut"))


@pytest.mark.parametrize("key", ["attention.head_count", "embedding_length", "rope.dimension_count"])
def test_a_key_that_is_missing_or_of_another_type(key: str, tmp_path: Path) -> None:
    original = make_tiny_model("llama", tmp_path / "hf")
    metadata = {"rope.dimension_count": 8}
    whole = convert_to_gguf(original, tmp_path / "whole.gguf", "llama", metadata=metadata).path.read_bytes()
    name, damaged = f"llama.{key}".encode(), tmp_path / "damaged.gguf"
    uint32, float32 = (4).to_bytes(4, "little"), (6).to_bytes(4, "little")
    for there, here in ((name, name[:-1] + b"X"), (name + uint32, name + float32)):
        assert there in whole
        damaged.write_bytes(whole.replace(there, here))
        if key == "rope.dimension_count" and here[-1:] == b"X":
            read_config(ModelFiles("gguf", None, damaged, "d"))  # it may be missing
        else:
            with pytest.raises(ModelSourceError, match=f"{key.rpartition('.')[2]}|num_attention_heads|hidden_size|0 that are rotated"):
                read_config(ModelFiles("gguf", None, damaged, "d"))


@pytest.mark.parametrize("shape", [(), (0, 8), (1, 1, 1, 1, 8)])
@pytest.mark.parametrize("name", ["token_embd.weight", "rope_freqs.weight"])
def test_a_tensor_of_an_impossible_shape_is_named(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Before anything is made of it: the size of the vocabulary is the embedding's."""
    converted = convert_to_gguf(make_tiny_model("llama", tmp_path / "hf"), tmp_path / "tiny.gguf", "llama")
    assert converted.gguf is not None
    content = converted.gguf.read_bytes()
    (num_tensors,) = struct.unpack_from("<Q", content, 8)
    # One more, before the others: readers of headers take the last of a name.
    first = content.index(struct.pack("<Q", 17) + b"token_embd.weight")
    entry = struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], 0, 0)
    rest = content[first:].replace(b"token_embd.weight", b"token_embd.WEIGHT") if name == "token_embd.weight" else content[first:]
    converted.gguf.write_bytes(content[:8] + struct.pack("<Q", num_tensors + 1) + content[16:first] + entry + rest)
    with pytest.raises(
        ModelSourceError, match=rf"The tensor {name} of .* has the shape {re.escape(str(list(shape)))}: the file is damaged"
    ):
        load(converted)
