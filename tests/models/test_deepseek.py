"""DeepSeek's own: what its checkpoints have beside other mixtures', what its cache takes, and configs that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import add_adapter, make_engine, request, run
from forward_batches import Stepper
from msgspec.structs import replace
from quantized_files import fp8, quantize_files
from safetensors.torch import load_file, save_file
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model

from headway.kernels.group_routing import route_in_groups
from headway.kernels.kv_cache import FP8
from headway.server.distributed.groups import SINGLE
from headway.server.errors import AdapterError, ModelSourceError
from headway.server.loading.loader import LoadedModel, load_model
from headway.server.loading.model_config import read_config
from headway.server.sizing.memory import kv_spec
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef

PROMPT = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31]
# Of deepseek-ai/DeepSeek-V3 and DeepSeek-V2-Lite.
V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 163840,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
}


def load(files: ModelFiles) -> LoadedModel:
    return load_model(files, dtype="float32", device=torch.device("cpu"), quantization="none", load_format="auto", group=SINGLE, seed=0)


def logits(files: ModelFiles) -> torch.Tensor:
    return Stepper(load(files).model).run(PROMPT, [6, 1, 4])


def config_at(directory: Path, **values: Any) -> ModelFiles:
    (directory / "config.json").write_text(json.dumps(values))
    return ModelFiles("safetensors", directory, None, "published")


def test_the_published_config(tmp_path: Path) -> None:
    config = read_config(config_at(tmp_path, **V3))
    assert kv_spec(config).numbers_per_token == 61 * 576
    assert config.max_model_len == 163840
    assert config.attention_scale == pytest.approx(192**-0.5 * 1.3688879454**2)
    assert "layers.60.latent.kv_b.weight" in config.quantized_linears
    assert "layers.0.moe.router.weight" not in config.quantized_linears


def test_fp8_blocks_and_layers_for_drafts(tmp_path: Path) -> None:
    """All linears of attention in blocks, kv_b_proj too; a multi-token-prediction layer is passed over."""
    plain = make_tiny_model("deepseek-v3", tmp_path / "plain")
    files = quantize_files(plain, tmp_path / "fp8", fp8(is_blocked=True))
    path = files.path / "model.safetensors"
    tensors = load_file(path)
    drafts = {name.replace("layers.2.", "layers.3."): tensor.clone() for name, tensor in tensors.items() if ".layers.2." in name}
    drafts["model.layers.3.eh_proj.weight"] = torch.zeros(64, 128)
    assert any(name.endswith("kv_b_proj.weight_scale_inv") for name in drafts)
    save_file(tensors | drafts, path)
    config = json.loads((files.path / "config.json").read_text())
    (files.path / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 0}))
    with pytest.raises(ModelSourceError, match=r"has the tensors model.layers.3.*no place for"):
        load(files)
    (files.path / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    torch.testing.assert_close(logits(files), logits(plain), atol=1e-5, rtol=0)


def test_pages_in_fp8_stay_near(tmp_path: Path) -> None:
    loaded = load(make_tiny_model("deepseek-v2-lite", tmp_path))
    exact, rounded = (Stepper(loaded.model, dtype=dtype).run(PROMPT, [6, 1, 4]) for dtype in (torch.float32, FP8))
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.2


def test_blocks_that_are_offloaded_hold_each_number_once(tmp_path: Path) -> None:
    files = make_tiny_model("deepseek-v2-lite", tmp_path)
    cache = {"num_gpu_blocks_override": 6, "block_size": 16}
    engine = make_engine(files, model={"max_model_len": 64}, cache=cache, kv_transfer={"kv_offloading_size": 0.01})
    prompts = {f"r{i}": [(7 * i + position * position) % 250 for position in range(50)] for i in range(3)}
    first, again = ([run(engine, [request(key, prompt, max_tokens=8)])[key] for key, prompt in prompts.items()] for _ in range(2))
    assert [output.token_ids for output in again] == [output.token_ids for output in first]
    assert [output.num_cached_tokens for output in again] == [48] * 3
    transfers = engine.stats().transfers
    assert transfers is not None
    assert transfers.offload is not None
    num_blocks, rest = divmod(transfers.offload.num_loaded_bytes, 3 * 16 * (32 + 8) * 4)
    assert (num_blocks > 0, rest) == (True, 0)
    engine.shutdown()


def test_adapters_change_what_is_a_linear(tmp_path: Path) -> None:
    files = make_tiny_model("deepseek-v2", tmp_path / "model")
    engine = make_engine(files, model={"max_model_len": 128}, lora={"enable_lora": True, "max_loras": 2})
    config = read_config(files)
    plain = run(engine, [request("plain", PROMPT, max_tokens=8, ignore_eos=True)])["plain"].token_ids
    targets = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"]
    own = AdapterRef(1, "a", str(make_adapter(tmp_path / "a", config, targets=targets)))
    add_adapter(engine, own)
    changed = run(engine, [replace(request("own", PROMPT, max_tokens=8, ignore_eos=True), adapter_id=1)])["own"].token_ids
    assert changed != plain
    with pytest.raises(AdapterError, match=r"it changes model.layers.0.self_attn.kv_b_proj, and this model has no such linear"):
        add_adapter(engine, AdapterRef(2, "b", str(make_adapter(tmp_path / "b", config, targets=["kv_b_proj"]))))


def test_a_bias_chooses_experts_and_does_not_weigh_them() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    bias = torch.tensor([0.0, 0.0, 2.0, 2.0])
    how: dict[str, Any] = {"scoring": "sigmoid", "renormalise": False, "num_groups": 2}
    weights, experts = route_in_groups(logits, bias, 2, top_groups=1, **how)
    assert experts.tolist() == [[2, 3]]
    torch.testing.assert_close(weights, logits[:, 2:].sigmoid())
    assert route_in_groups(logits, None, 2, top_groups=1, **how)[1].tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="3 of 4 experts in 1 of 2 groups"):
        route_in_groups(logits, bias, 3, top_groups=1, **how)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("deepseek-v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc' is not supported"),
        ("deepseek-v2", {"norm_topk_prob": True}, "norm_topk_prob is true"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported; sigmoid is"),
        ("deepseek-v3", {"moe_layer_freq": 2}, "moe_layer_freq 2 is not supported"),
        ("deepseek-v3", {"n_group": 3}, "num_experts_per_tok 3 of 8 experts can't be chosen from topk_group 2 of n_group 3 groups"),
        ("deepseek-v3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim must be even, not 7"),
        ("deepseek-v3", {"n_shared_experts": -1}, "n_shared_experts must be from 0"),
        ("deepseek-v3", {"num_nextn_predict_layers": -1}, "num_nextn_predict_layers must be from 0"),
        ("deepseek-v3", {"first_k_dense_replace": -1}, "first_k_dense_replace must be from 0"),
    ],
)
def test_configs_that_none_has(tmp_path: Path, name: str, changes: dict[str, Any], told: str) -> None:
    files = make_tiny_model(name, tmp_path)
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelSourceError, match=told):
        read_config(files)
