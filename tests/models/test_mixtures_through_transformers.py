"""Mixtures of experts, and attention with sinks, through transformers: against transformers itself, whoever computes the experts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import add_adapter, make_engine, request, run
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from msgspec import structs
from safetensors.torch import load_file, save_file
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model, transformers_model
from transformers_models import MIXTURES_THROUGH_TRANSFORMERS, answers_in_chunks, make_model_for_transformers

from headway.server.config.parallel import ParallelConfig
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.errors import AdapterError, ConfigError, ModelSourceError
from headway.server.layers.balanced_experts import BalancedExperts
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import LoadedModel, load_model
from headway.server.loading.model_config import read_config
from headway.server.models.transformers_config import ModelCode
from headway.server.sizing.model import read_shape
from headway.server.sizing.tensor_parallel import check_context
from headway.server.sizing.weights import weight_shapes
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef

TRANSFORMERS = ModelCode("transformers")
TOKEN_IDS = random.Random(1).choices(range(259), k=40)
SHARED = random.Random(0).choices(range(3, 259), k=37)
PROMPTS = [[*SHARED, *random.Random(i).choices(range(3, 259), k=n)] for i, n in enumerate((5, 23, 1), 1)]


def load(files: ModelFiles, group: TensorParallelGroup = SINGLE, **options: Any) -> LoadedModel:
    wanted: dict[str, Any] = {"dtype": "float32", "quantization": "none", "load_format": "auto"} | options
    return load_model(files, device=torch.device("cpu"), group=group, seed=0, code=TRANSFORMERS, **wanted)


def logits_of(loaded: LoadedModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A prefill, a chunk beside a decode, and a decode."""
    stepper = Stepper(loaded.model, seed=1, dtype=dtype)
    first, second = Sequence(TOKEN_IDS[:11]), Sequence(TOKEN_IDS[11:22])
    plans = [[(first, 4)], [(first, 1), (second, 6)], [(second, 1), (first, 1)]]
    return torch.cat([part for plan in plans for part in stepper.step(plan)])


def expected_of(files: ModelFiles) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = transformers_model(files)(torch.tensor([TOKEN_IDS])).logits[0].float()
    return logits


def num_own(loaded: LoadedModel) -> int:
    """Layers whose experts are ours."""
    model: Any = loaded.model
    return len(model.experts)


@pytest.mark.parametrize("model_type", sorted(MIXTURES_THROUGH_TRANSFORMERS))
def test_logits_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    loaded, expected = load(files), expected_of(files)
    assert expected.std() > 0.1
    assert bool(num_own(loaded)) == (model_type not in ("gpt_oss", "granite_swa"))
    for chunks in ([40], [13, 4, 17, 6], [30, *[1] * 10]):
        torch.testing.assert_close(Stepper(loaded.model).run(TOKEN_IDS, chunks), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", ["flint", "glm4_moe", "granitemoe_swa", "olmoe"])
def test_64_tokens_equal_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    answers = answers_in_chunks(files, PROMPTS, model_type)
    reference = transformers_model(files)
    for i, prompt in enumerate(PROMPTS):
        answer = answers[i]
        with torch.inference_mode():
            most_likely = reference(torch.tensor([prompt + answer])).logits[0].argmax(-1)
        assert answer == most_likely[len(prompt) - 1 : -1].tolist()


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe", "gpt-oss"])
def test_a_family_of_ours_is_the_same_through_transformers(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    own = load_model(files, dtype="float32", device=torch.device("cpu"), quantization="none", load_format="auto", group=SINGLE, seed=0)
    torch.testing.assert_close(logits_of(load(files)), logits_of(own), atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", ["beam", "flint", "glm4_moe", "olmoe"])
def test_two_ranks_agree_with_one(tmp_path: Path, model_type: str) -> None:
    """Each with a part of every expert, with some experts whole, and where they move between ranks."""
    files = make_model_for_transformers(model_type, tmp_path)
    whole = load(files)
    expected = logits_of(whole)
    for options in ({}, {"has_whole_experts": True}, {"has_whole_experts": True, "num_redundant_experts": 2}):

        def work(group: TensorParallelGroup, options: dict[str, Any] = options) -> tuple[LoadedModel, torch.Tensor]:
            loaded = load(files, group, **options)
            return loaded, logits_of(loaded)

        for loaded, found in run_ranks(2, work):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
            balanced = [layer for _, layer in loaded.model.named_layers() if isinstance(layer, BalancedExperts)]
            assert len(balanced) == (num_own(whole) if "num_redundant_experts" in options else 0)
            if not balanced:
                assert loaded.weight_bytes < 0.65 * whole.weight_bytes


def test_experts_that_only_transformers_can_compute(tmp_path: Path) -> None:
    """Those of a checkpoint that has them one by one are put together for it."""
    files = make_model_for_transformers("glm4_moe", tmp_path, hidden_act="gelu")
    assert "model.layers.1.mlp.experts.0.gate_proj.weight" in load_file(tmp_path / "model.safetensors")
    loaded = load(files)
    assert num_own(loaded) == 0
    torch.testing.assert_close(Stepper(loaded.model).run(TOKEN_IDS, [20, 1, 19]), expected_of(files), atol=1e-4, rtol=0)
    with pytest.raises(
        ModelSourceError, match=r"experts that only transformers can compute .*: leave --quantization out, or set it to none"
    ):
        load(files, quantization="int8")
    with pytest.raises(ModelSourceError, match=r"experts that only transformers can compute .*: leave --tensor-parallel-size out"):
        run_ranks(2, lambda group: load(files, group))


@pytest.mark.parametrize("model_type", ["aria_text", "olmoe"])
def test_experts_in_one_tensor_give_the_same(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU keeps them, from files of either form."""
    files = make_model_for_transformers(model_type, tmp_path)
    apart = logits_of(load(files))
    monkeypatch.setattr(UnquantizedLinear, "stacks_experts", property(lambda _: True))
    torch.testing.assert_close(logits_of(load(files)), apart, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "exact"),
    [("glm4_moe", ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"]), ("flint", ["mlp.gate.weight", "self_attn.sinks"])],
)
def test_what_chooses_stays_exact(tmp_path: Path, model_type: str, exact: list[str]) -> None:
    """Routers and sinks, beside weights in few bits and in bfloat16, as transformers has them."""
    files = make_model_for_transformers(model_type, tmp_path)
    expected, rounded, halved = logits_of(load(files)), load(files, quantization="int8"), load(files, dtype="bfloat16")
    for found, most in (logits_of(rounded), 0.1), (logits_of(halved, torch.bfloat16), 0.2):
        assert ((found - expected).square().mean() / expected.square().mean()).sqrt() < most
    model: Any = halved.model
    tensors = model.causal.state_dict()
    assert {tensors[f"model.layers.1.{name}"].dtype for name in exact} == {torch.float32}
    assert tensors["model.norm.weight"].dtype == torch.bfloat16


def test_adapters_change_what_is_no_expert(tmp_path: Path) -> None:
    files = make_model_for_transformers("glm4_moe", tmp_path / "m")
    engine = make_engine(files, model={"max_model_len": 256}, lora={"enable_lora": True, "max_loras": 1})
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=["q_proj", "o_proj"], spread=0.3)
    plain = run(engine, [request("a", PROMPTS[0])])["a"].token_ids
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    assert run(engine, [structs.replace(request("b", PROMPTS[0]), adapter_id=1)])["b"].token_ids != plain
    tensors = load_file(adapter / "adapter_model.safetensors")
    expert = "base_model.model.model.layers.1.mlp.experts.0.gate_proj"
    tensors |= {f"{expert}.lora_A.weight": torch.zeros(8, 64), f"{expert}.lora_B.weight": torch.zeros(48, 8)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="expert"):
        add_adapter(engine, AdapterRef(2, "b", str(adapter)))


def test_parts_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    files = make_model_for_transformers("glm4_moe", tmp_path, hidden_act="gelu")
    path = tmp_path / "model.safetensors"
    tensors, name = load_file(path), "model.layers.1.mlp.experts.5.gate_proj.weight"
    for changed in (tensors | {name: torch.zeros(3, 64)}, {key: value for key, value in tensors.items() if key != name}):
        save_file(changed, path)
        with pytest.raises(
            ModelSourceError, match=r"parts of model\.layers\.1\.mlp\.experts\.gate_up_proj .*; check that config and weights"
        ):
            load(files)


def test_sinks_are_loaded_anew_after_a_sleep(tmp_path: Path) -> None:
    engine = make_engine(make_model_for_transformers("flint", tmp_path), model={"max_model_len": 256})
    before = run(engine, [request("before", PROMPTS[1])])["before"].token_ids
    answers: list[Exception | None] = []
    engine.sleep(2, "abort", answers.append)
    engine.settle()
    assert answers == [None]
    engine.wake_up(None)
    assert run(engine, [request("after", PROMPTS[1])])["after"].token_ids == before


def test_sinks_are_known_to_what_shares_sequences(tmp_path: Path) -> None:
    config = read_config(make_model_for_transformers("granite_swa", tmp_path))
    with pytest.raises(ConfigError, match="--decode-context-parallel-size 2: this model has attention sinks"):
        check_context(ParallelConfig(tensor_parallel_size=4, decode_context_parallel_size=2), config)


def test_sinks_that_no_config_speaks_of_are_refused_by_a_library(tmp_path: Path) -> None:
    """As of a model's own code: the start knows of those in the table of classes."""
    loaded = load(make_model_for_transformers("flint", tmp_path), attention=object())
    with pytest.raises(ModelSourceError, match="has attention sinks, which only Headway's own kernels take: leave out --attention-backend"):
        logits_of(loaded)


def test_dummy_weights(tmp_path: Path) -> None:
    files = make_model_for_transformers("flint", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert logits_of(load(files, load_format="dummy")).isfinite().all()


@pytest.mark.parametrize("model_type", ["ernie4_5_moe", "flint", "glm4_moe", "granitemoe_swa", "hunyuan_v1_moe", "olmoe"])
def test_weights_are_estimated_from_the_config_alone(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    shapes = weight_shapes(read_shape(ServerConfig.model_validate({"model": {"model": "m"}}), files))
    sizes = [shapes.count(name) * linear.shape[0] * linear.shape[1] for name, linear in shapes.linears.items()]
    tables = [shapes.count(name) * other[0] * other[1] for name, other in shapes.others.items() if len(other) == 2]
    counted = sum(p.numel() for p in transformers_model(files).parameters())
    assert sum(sizes) + sum(tables) == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_experts": [6, 6, 6, 6, 4]}, "num_experts differs between layers"),
        ({"num_experts_per_tok": 7}, "a token goes to 7 experts, and num_experts is 6"),
        ({"num_experts": 10**9}, "num_experts must be from 0 to"),
        ({"kv_lora_rank": 32}, "kv_lora_rank says that its attention is latent"),
    ],
)
def test_refused_by_config(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    files = make_model_for_transformers("olmoe", tmp_path)
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelSourceError, match=why):
        read_config(files)


def test_a_state_beside_the_pages_is_refused(tmp_path: Path) -> None:
    """Code that comes with a model may have layers of any kind."""
    files = make_tiny_model("llama", tmp_path)
    loaded = load(files)
    model: Any = loaded.model
    layer = model.causal.model.layers[1]
    layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelSourceError, match=r"layer 1 of \d doesn't attend, and what it keeps of earlier tokens is in no page"):
        logits_of(loaded)
