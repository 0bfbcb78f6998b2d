"""Mixtures of experts: greedy answers of whole engines, every form that checkpoints have them in, and experts kept in one tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import add_adapter, make_engine, request, run
from forward_batches import Stepper
from mxfp4_files import make_gpt_oss
from safetensors.torch import load_file, save_file
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model, transformers_model

from headway.server.distributed.groups import SINGLE
from headway.server.errors import AdapterError, ModelSourceError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.loading.model_config import read_config
from headway.server.loading.rotation import HadamardRotation
from headway.server.models.decoder import DecoderLayer
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef

PROMPT = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31] * 3
MIXTURES = ["mixtral", "qwen2-moe", "qwen3-moe", "gpt-oss", "deepseek-v3"]


def load(files: ModelFiles, quantization: Quantization = "none") -> LoadedModel:
    device = torch.device("cpu")
    return load_model(files, dtype="float32", device=device, quantization=quantization, load_format="auto", group=SINGLE, seed=0)


def logits(loaded: LoadedModel) -> torch.Tensor:
    return Stepper(loaded.model).run(PROMPT, [20, 1, 12])


@pytest.mark.parametrize("name", MIXTURES)
def test_greedy_answers_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """In chunks, beside each other, and from prefixes that are in the cache."""
    files = make_tiny_model(name, tmp_path)
    scheduler, cache = {"max_num_batched_tokens": 16, "max_num_seqs": 4}, {"block_size": 8, "num_gpu_blocks_override": 64}
    engine = make_engine(files, model={"max_model_len": 256}, scheduler=scheduler, cache=cache)
    prompts = {f"r{i}": PROMPT[: 33 - 4 * i] for i in range(3)}
    found = run(engine, [request(key, prompt, max_tokens=64, ignore_eos=True) for key, prompt in prompts.items()], stagger=4)
    assert any(output.num_cached_tokens for output in found.values())
    reference = transformers_model(files)
    for key, prompt in prompts.items():
        answer = found[key].token_ids
        with torch.inference_mode():
            most_likely = reference(torch.tensor([prompt + answer])).logits[0].argmax(-1)
        assert answer == most_likely[len(prompt) - 1 : -1].tolist()


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_in_one_tensor_give_the_same(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU keeps them."""
    monkeypatch.setattr("headway.kernels.cpu.linear.function", lambda *_: None)  # and its linears: each weight a tensor of so many numbers
    files = make_tiny_model(name, tmp_path)
    apart = load(files)
    monkeypatch.setattr(UnquantizedLinear, "stacks_experts", property(lambda _: True))
    stacked = load(files)
    torch.testing.assert_close(logits(stacked), logits(apart), atol=1e-4, rtol=0)
    assert stacked.weight_bytes == apart.weight_bytes
    reference = transformers_model(files)
    num_weights = sum(parameter.numel() for parameter in reference.parameters())
    num_weights += sum(buffer.numel() for name, buffer in reference.named_buffers() if name.endswith("e_score_correction_bias"))
    for loaded in (apart, stacked):
        model: Any = loaded.model
        assert sum(tensor.numel() for tensor in model.tensors()) == num_weights + sum(table.numel() for table in model._rope_tables)


def test_experts_that_a_checkpoint_has_in_stacks(tmp_path: Path) -> None:
    files = make_tiny_model("qwen3-moe", tmp_path)
    expected = logits(load(files))
    path = files.path / "model.safetensors"
    tensors = load_file(path)
    for layer in range(3):
        experts = f"model.layers.{layer}.mlp.experts"
        own = {part: [tensors.pop(f"{experts}.{e}.{part}_proj.weight", None) for e in range(6)] for part in ("gate", "up", "down")}
        if own["gate"][0] is not None:
            pairs = zip(own["gate"], own["up"], strict=True)
            tensors[f"{experts}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
            tensors[f"{experts}.down_proj"] = torch.stack(own["down"])
    save_file(tensors, path)
    assert torch.equal(logits(load(files)), expected)
    save_file({name: tensor[:5].clone() if name.endswith("experts.down_proj") else tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(
        ModelSourceError, match=r"experts.down_proj of shape \[5, 64, 32\], where its first dimension should be the 6 experts"
    ):
        load(files)


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    """Of gpt-oss as it is published, against what transformers makes of the same blocks."""
    files, plain = make_gpt_oss(tmp_path)
    assert torch.equal(logits(load(files)), logits(load(plain)))
    tensors = load_file(files.path / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(tensors, files.path / "model.safetensors")
    with pytest.raises(ModelSourceError, match=r"down_proj_blocks .* which needs model.layers.1.mlp.experts.down_proj_scales"):
        load(files)


@pytest.mark.parametrize("name", MIXTURES)
@torch.inference_mode()
def test_experts_in_8_bits_are_near(tmp_path: Path, name: str) -> None:
    """Of a rotated stream, for the same routes: in a model of random weights another expert is another answer."""
    files = make_tiny_model(name, tmp_path)
    exact, rounded = (_mixture_layers(load(files, kind)) for kind in ("none", "int8"))
    assert exact
    rotate, x = HadamardRotation(64), torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    for here, there in zip(exact, rounded, strict=True):
        own = x * here.post_attention_norm.loaded_weight
        routes = here.moe.router(own)
        expected = rotate(here.moe.routed(own, *routes))
        assert 0 < (there.moe.routed(rotate(x), *routes) - expected).norm() / expected.norm() < 0.03


def _mixture_layers(loaded: LoadedModel) -> list[DecoderLayer]:
    return [layer for _, layer in loaded.model.named_layers() if isinstance(layer, DecoderLayer) and layer.moe is not None]


def test_adapters_change_attention_and_no_experts(tmp_path: Path) -> None:
    files = make_tiny_model("qwen3-moe", tmp_path / "model", decoder_sparse_step=1)
    engine = make_engine(files, model={"max_model_len": 256}, lora={"enable_lora": True, "max_loras": 2})
    config = read_config(files)
    add_adapter(engine, AdapterRef(1, "a", str(make_adapter(tmp_path / "a", config, targets=["q_proj", "v_proj", "o_proj"]))))
    changed = make_adapter(tmp_path / "b", config, targets=["q_proj"])
    path = changed / "adapter_model.safetensors"
    save_file({key.replace("self_attn.q_proj", "mlp.experts.2.up_proj"): value for key, value in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match=r"it changes model.layers.\d.mlp.experts.2.up_proj, and adapters of experts are not served"):
        add_adapter(engine, AdapterRef(2, "b", str(changed)))


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("mixtral", {"num_experts_per_tok": 6}, "num_experts_per_tok is 6 and num_local_experts 5"),
        ("qwen2-moe", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported for experts"),
        ("qwen3-moe", {"mlp_only_layers": 1}, "mlp_only_layers must be a list of layers, not 1"),
        ("gpt-oss", {"layer_types": ["full_attention"]}, "layer_types must name"),
        ("gpt-oss", {"quantization_config": {"quant_method": "gptq"}}, "'gptq' format, which is not supported"),
    ],
)
def test_configs_that_no_mixture_has(tmp_path: Path, name: str, changes: dict[str, Any], told: str) -> None:
    files = make_tiny_model(name, tmp_path)
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelSourceError, match=told):
        read_config(files)
