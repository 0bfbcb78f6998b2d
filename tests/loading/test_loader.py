"""What the loader accepts, and the one sentence for each thing that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_batches import Stepper
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_model

from headway.server.distributed.groups import SINGLE
from headway.server.errors import ModelSourceError
from headway.server.loading.loader import LoadedModel, LoadFormat, load_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles


def load(files: ModelFiles, load_format: LoadFormat = "auto", seed: int = 0, max_model_len: int | None = None) -> LoadedModel:
    return load_model(
        files,
        dtype="float32",
        device=torch.device("cpu"),
        quantization="none",
        load_format=load_format,
        group=SINGLE,
        seed=seed,
        max_model_len=max_model_len,
    )


@pytest.fixture
def llama(tmp_path: Path) -> ModelFiles:
    return make_tiny_model("llama", tmp_path / "llama")


def edit_weights(files: ModelFiles, **changes: torch.Tensor | None) -> None:
    path = files.path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path)


def edit_config(files: ModelFiles, **changes: Any) -> None:
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(files: ModelFiles) -> str:
    with pytest.raises(ModelSourceError) as caught:
        load(files)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_missing_unexpected_and_misshapen_tensors(llama: ModelFiles) -> None:
    edit_weights(llama, **{"model.norm.weight": None})
    assert "lacks the tensor model.norm.weight" in refusal(llama)
    edit_weights(llama, **{"model.norm.weight": torch.ones(63)})
    assert "model.norm.weight has shape [63], but the model's config asks for [64]" in refusal(llama)
    edit_weights(llama, **{"model.norm.weight": torch.ones(64), "model.layers.0.self_attn.q_proj.bias": torch.ones(64)})
    assert "has the tensor model.layers.0.self_attn.q_proj.bias, which the model's config has no place for" in refusal(llama)


def test_too_many_layers_lists_a_few(llama: ModelFiles) -> None:
    edit_config(llama, num_hidden_layers=5)
    assert "and 15 more" in refusal(llama)


def test_tensors_that_say_nothing_new_are_passed_over(tmp_path: Path) -> None:
    files = make_tiny_model("llama-tied", tmp_path)
    table = load_file(files.path / "model.safetensors")["model.embed_tokens.weight"].clone()
    edit_weights(files, **{"lm_head.weight": table, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load(files)


def test_files_missing_or_damaged(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path / "sharded", max_shard_size="60KB")
    shards = sorted(files.path.glob("*.safetensors"))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    assert f"{shards[1]} is damaged or cut off" in refusal(files)
    shards[1].unlink()
    assert f"{shards[1]} is missing" in refusal(files)
    (files.path / "model.safetensors.index.json").write_text("[]")
    assert "is not a safetensors index" in refusal(files)
    (files.path / "config.json").write_text("[" * 100_000)
    assert "cannot be read as JSON" in refusal(files)
    (files.path / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(files)
    (files.path / "config.json").unlink()
    assert "config.json is missing" in refusal(files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": None}, "has no `architectures`, so that it is not known which of the supported ones it is; these are: Llama"),
        ({"architectures": ["MambaForCausalLM"]}, "is MambaForCausalLM, which is not supported"),
        ({"rope_parameters": {"rope_type": "ntk", "factor": 2.0}}, "rope type 'ntk' is not supported; default, "),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
        ({"hidden_act": "relu2"}, "hidden_act 'relu2' is not supported"),
        ({"quantization_config": {"quant_method": "quip"}}, "'quip' format"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers must be a whole number, not 'three'"),
        ({"attention_bias": 1}, "attention_bias must be true or false, not 1"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn' is not supported"),
        ({"num_hidden_layers": 2**25}, "num_hidden_layers must be from 1 to 4096, not 33554432"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number that a model can have, not nan"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a number that a model can have, not 1000"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta must be a number above 0, not 0"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": float("inf")}}, "factor must be a number that a model can have, not inf"),
        ({"rope_parameters": {"partial_rotary_factor": 1e300}}, "partial_rotary_factor must be a number that a model can have"),
        ({"head_dim": 2**25}, "head_dim must be from 1 to 8192, not 33554432"),
        ({"num_labels": 2**25}, "num_labels is 33554432, and 65536 is the most that is served"),
        ({"head_dim": 2, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "needs more than the 2 numbers that are rotated"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1}}, "rope_theta must not be 1 with rope type 'yarn'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}}, "beta_fast must be a number above 0, not -1"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_slow": 1e-320}}, "beta_slow must be a number above 0, not"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 1e9}}, "makes a context of 5.12e+11 tokens, and 33554432 are the most"),
        ({"head_dim": 7}, "heads of 7 numbers have 7 that are rotated, which must be an even number above 0"),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor must be above 0 and at most 1, not 1.5"),
        ({"architectures": ["Gemma2ForCausalLM"], "query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a number above 0, not 0"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "layer_types": [["full_attention"]] * 3},
            "layer_types must name sliding_attention or full_attention for each of 3 layers",
        ),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [{}] * 3}, "no_rope_layers must have a 1 (rope) or 0 (none)"),
    ],
)
def test_configs_that_are_refused(llama: ModelFiles, changes: dict[str, Any], words: str) -> None:
    edit_config(llama, **changes)
    text = refusal(llama)
    assert words in text
    assert str(llama.path) in text


def test_configs_from_before_transformers_5(llama: ModelFiles) -> None:
    now = read_config(llama)
    path = llama.path / "config.json"
    values = json.loads(path.read_text())
    del values["rope_parameters"], values["dtype"]
    path.write_text(json.dumps(values | {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}))
    assert read_config(llama) == now
    edit_config(llama, rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=20000.0)
    rope = read_config(llama).rope
    assert (rope.type, rope.factor, rope.theta) == ("linear", 4.0, 20000.0)


def test_yarn_stretches_the_context(llama: ModelFiles) -> None:
    edit_config(llama, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512})
    assert read_config(llama).max_model_len == 2048


def test_a_shorter_context_changes_nothing_else(llama: ModelFiles) -> None:
    token_ids = list(range(20))
    whole, short = (Stepper(load(llama, max_model_len=limit).model).run(token_ids, [20]) for limit in (None, 20))
    assert torch.equal(whole, short)


def test_dummy_weights_need_no_files_and_repeat(llama: ModelFiles) -> None:
    (llama.path / "model.safetensors").unlink()
    a, b, c = (Stepper(load(llama, "dummy", seed=seed).model).run([1, 2, 3], [3]) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.isfinite().all()


def test_overrides_change_what_is_built(llama: ModelFiles) -> None:
    assert read_config(llama, {"rms_norm_eps": 0.5}).norm_eps == 0.5
    with pytest.raises(ModelSourceError, match="hidden_act"):
        read_config(llama, {"hidden_act": "mish"})


@pytest.mark.parametrize("in_file", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_overrides_of_rope_win_under_either_name(llama: ModelFiles, in_file: str, key: str) -> None:
    edit_config(llama, **{"rope_parameters": None, "rope_theta": 5000.0, in_file: {"rope_type": "linear", "factor": 2.0}})
    rope = read_config(llama, {key: {"factor": 8.0}}).rope
    assert (rope.type, rope.factor, rope.theta) == ("linear", 8.0, 5000.0)
    rope = read_config(llama, {key: {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 7000.0}).rope
    assert (rope.type, rope.factor, rope.theta) == ("yarn", 4.0, 7000.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rope_scaling": "yarn"}, "rope_scaling .* must be an object, not 'yarn'"),
        ({"rope_parameters": 5}, "rope_parameters .* must be an object, not 5"),
        ({"architectures": "LlamaForCausalLM"}, "architectures .* must be a list of names, not 'LlamaForCausalLM'"),
    ],
)
def test_what_is_of_the_wrong_kind_is_told(llama: ModelFiles, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelSourceError, match=told):
        read_config(llama, changes)
    edit_config(llama, **changes)
    with pytest.raises(ModelSourceError, match=told):
        read_config(llama)


def test_overrides_of_rope_are_for_layers_that_attend_to_everything(tmp_path: Path) -> None:
    files = make_tiny_model("gemma3", tmp_path)
    whole, local = read_config(files, {"rope_scaling": {"factor": 6.0}}).distinct_ropes[::-1]
    assert (whole.type, whole.factor, whole.theta) == ("linear", 6.0, 100000.0)
    assert (local.type, local.theta) == ("default", 500.0)
    assert read_config(files, {"rope_parameters": {"sliding_attention": {"rope_theta": 9.0}}}).distinct_ropes[0].theta == 9.0
