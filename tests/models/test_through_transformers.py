"""Models that run through transformers, against transformers itself: the same logits and tokens from our pages, cut as we cut them."""

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
from tiny_adapters import make_adapter
from tiny_models import make_tiny_model, transformers_model
from transformers_models import THROUGH_TRANSFORMERS, answers_in_chunks, bring_own_code, make_model_for_transformers

from headway.server.config.parallel import ParallelConfig
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.errors import ConfigError, ModelSourceError
from headway.server.loading.loader import LoadedModel, load_model
from headway.server.loading.model_config import read_config
from headway.server.models.transformers_config import ModelCode
from headway.server.sizing.model import read_shape
from headway.server.sizing.pipeline_parallel import check_stages
from headway.server.sizing.weights import weight_shapes
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef

TRANSFORMERS = ModelCode("transformers")
TRUSTED = ModelCode(is_trusted=True)
TOKEN_IDS = random.Random(1).choices(range(259), k=40)
SHARED = random.Random(0).choices(range(3, 259), k=37)
PROMPTS = [[*SHARED, *random.Random(i).choices(range(3, 259), k=n)] for i, n in enumerate((5, 23, 1), 1)]


def load(files: ModelFiles, code: ModelCode = ModelCode(), group: TensorParallelGroup = SINGLE, **options: Any) -> LoadedModel:
    wanted: dict[str, Any] = {"dtype": "float32", "quantization": "none", "load_format": "auto"} | options
    return load_model(files, device=torch.device("cpu"), group=group, seed=0, code=code, **wanted)


def logits_of(loaded: LoadedModel) -> torch.Tensor:
    """A prefill, a chunk beside a decode, and a decode."""
    stepper = Stepper(loaded.model, seed=1)
    first, second = Sequence(TOKEN_IDS[:11]), Sequence(TOKEN_IDS[11:22])
    plans = [[(first, 4)], [(first, 1), (second, 6)], [(second, 1), (first, 1)]]
    return torch.cat([part for plan in plans for part in stepper.step(plan)])


def changed(files: ModelFiles, **changes: Any) -> ModelFiles:
    path = files.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return files


@pytest.mark.parametrize("model_type", sorted(THROUGH_TRANSFORMERS))
def test_logits_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    loaded, reference = load(files), transformers_model(files)
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKEN_IDS])).logits[0].float()
    assert expected.std() > 0.1
    for chunks in ([40], [13, 4, 17, 6], [30, *[1] * 10]):
        torch.testing.assert_close(Stepper(loaded.model).run(TOKEN_IDS, chunks), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", ["codegen", "gptj"])
def test_tables_of_positions_are_as_long_as_the_context(tmp_path: Path, model_type: str) -> None:
    """Whatever length a config.json speaks of."""
    files = make_model_for_transformers(model_type, tmp_path)
    with torch.inference_mode():
        expected = transformers_model(files)(torch.tensor([TOKEN_IDS])).logits[0].float()
    loaded = load(changed(files, n_positions=1 << 20), max_model_len=40)
    [table] = [buffer for name, buffer in loaded.model.causal.named_buffers() if name.endswith("embed_positions")]  # type: ignore[attr-defined]
    assert table.shape == (40, 8)
    torch.testing.assert_close(Stepper(loaded.model).run(TOKEN_IDS, [40]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model_type", ["arcee", "glm4", "gpt_neox", "helium", "olmo3", "seed_oss", "vaultgemma"])
def test_64_tokens_equal_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    answers = answers_in_chunks(files, PROMPTS, model_type)
    reference = transformers_model(files)
    for i, prompt in enumerate(PROMPTS[1:], 1):
        with torch.inference_mode():
            expected = reference.generate(torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert answers[i] == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["llama-llama3", "qwen2-window", "gemma2", "granite", "cohere2"])
def test_a_family_of_ours_is_the_same_through_transformers(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    assert read_config(files).architecture == read_config(files, code=ModelCode("headway")).architecture
    assert read_config(files, code=TRANSFORMERS).architecture.endswith(" through transformers")
    torch.testing.assert_close(logits_of(load(files, TRANSFORMERS)), logits_of(load(files)), atol=1e-4, rtol=0)


def test_options_reach_the_engine(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    for options, architecture in ({}, "llama"), ({"model_impl": "transformers"}, "llama through transformers"):
        assert make_engine(files, model={"max_model_len": 64} | options).info.architecture == architecture
    bring_own_code(files)
    assert make_engine(files, model={"max_model_len": 64, "trust_remote_code": True}).info.architecture == "zebra through transformers"


@pytest.mark.parametrize("model_type", ["arcee", "glm4", "nanochat", "olmo3"])
def test_two_ranks_agree_with_one(tmp_path: Path, model_type: str) -> None:
    files = make_model_for_transformers(model_type, tmp_path)
    whole = load(files)
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))

    def work(group: TensorParallelGroup) -> tuple[LoadedModel, torch.Tensor, torch.Tensor]:
        loaded = load(files, group=group)
        return loaded, logits_of(loaded), group.all_gather(loaded.model.local_logits(hidden), dim=1)  # type: ignore[attr-defined]

    expected, expected_of_hidden = logits_of(whole), whole.model.logits(hidden)
    for loaded, found, gathered in run_ranks(2, work):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(gathered[:, :259], expected_of_hidden, atol=1e-4, rtol=0)
        assert (gathered[:, 259:] == -torch.inf).all()  # the vocabulary is padded
        assert loaded.weight_bytes < 0.6 * whole.weight_bytes


def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    expected = logits_of(load(files))
    bring_own_code(files)
    for code in (ModelCode(), TRANSFORMERS):
        with pytest.raises(
            ModelSourceError, match=r"modeling_zebra\.ZebraForCausalLM comes as code beside it, .*: read it, and .* --trust-rem"
        ):
            load(files, code)
    torch.testing.assert_close(logits_of(load(files, TRUSTED)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nothing_of_that_name", "own code modeling_zebra.ZebraForCausalLM can't be loaded"),
        ("class ZebraForCausalLM: pass", "can't build ZebraForCausalLM"),
    ],
)
def test_code_that_does_not_work_is_one_sentence(tmp_path: Path, code: str, why: str) -> None:
    files = bring_own_code(make_tiny_model("llama", tmp_path))
    (tmp_path / "modeling_zebra.py").write_text(code)
    with pytest.raises(ModelSourceError, match=why):
        load(files, TRUSTED)


def test_adapters_and_8_bits(tmp_path: Path) -> None:
    """Linear layers are ours, so that what they can do is there."""
    files = make_model_for_transformers("olmo3", tmp_path / "m")
    exact, rounded = logits_of(load(files)), logits_of(load(files, quantization="int8"))
    assert ((rounded - exact).square().mean() / exact.square().mean()).sqrt() < 0.1
    engine = make_engine(files, model={"max_model_len": 256}, lora={"enable_lora": True, "max_loras": 1})
    adapter = make_adapter(tmp_path / "a", read_config(files), targets=["q_proj", "o_proj", "down_proj"], spread=0.3)
    plain = run(engine, [request("a", PROMPTS[0])])["a"].token_ids
    add_adapter(engine, AdapterRef(1, "a", str(adapter)))
    asked = structs.replace(request("b", PROMPTS[0]), adapter_id=1)
    assert run(engine, [asked])["b"].token_ids != plain
    assert run(engine, [request("c", PROMPTS[0])])["c"].token_ids == plain


@pytest.mark.parametrize("pages", ["fp8", "int8"])
def test_a_rounded_cache_is_that_of_a_family_of_ours(tmp_path: Path, pages: str) -> None:
    files = make_tiny_model("llama", tmp_path)
    asked = [request(f"r{i}", prompt, ignore_eos=True) for i, prompt in enumerate(PROMPTS)]
    engines = [
        make_engine(files, model={"max_model_len": 256, "model_impl": impl}, cache={"kv_cache_dtype": pages, "num_gpu_blocks_override": 32})
        for impl in ("headway", "transformers")
    ]
    ours, theirs = ({name: output.token_ids for name, output in run(engine, asked).items()} for engine in engines)
    assert theirs == ours


@pytest.mark.parametrize("level", [0, 1, 2])
def test_answers_are_the_same_after_a_sleep(tmp_path: Path, level: int) -> None:
    engine = make_engine(make_model_for_transformers("apertus", tmp_path), model={"max_model_len": 256})
    before = run(engine, [request("before", PROMPTS[1])])["before"].token_ids
    answers: list[Exception | None] = []
    engine.sleep(level, "abort", answers.append)
    engine.settle()
    assert answers == [None]
    engine.wake_up(None)
    assert run(engine, [request("after", PROMPTS[1])])["after"].token_ids == before


def test_dummy_weights(tmp_path: Path) -> None:
    files = make_model_for_transformers("gptj", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert logits_of(load(files, load_format="dummy")).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantised checkpoints are not served through transformers; use "),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic', which changes with a text's length"),
        ({"vision_config": {}}, "vision_config says that it takes more than text"),
        ({"hidden_size": "x"}, "hidden_size must be a whole number"),
    ],
)
def test_refused_by_config(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    files = changed(make_model_for_transformers("olmo3", tmp_path), **changes)
    with pytest.raises(ModelSourceError, match=why):
        read_config(files)


def test_refused_by_options(tmp_path: Path) -> None:
    files = make_model_for_transformers("olmo3", tmp_path)
    with pytest.raises(ModelSourceError, match=r"Olmo3ForCausalLM, which is not supported; .*.*; \d+ more run through transformers"):
        read_config(files, code=ModelCode("headway"))
    with pytest.raises(ModelSourceError, match=r"is no class that can be served so \(it keeps a state beside .*\); these are: Afmoe"):
        read_config(changed(files, architectures=["MambaForCausalLM"]), code=TRANSFORMERS)
    with pytest.raises(
        ModelSourceError, match=r"MambaForCausalLM, which is not supported \(it keeps a state beside keys and values\); these"
    ):
        read_config(files)
    with pytest.raises(ModelSourceError, match="takes safetensors, and this model is a GGUF"):
        read_config(ModelFiles("gguf", None, tmp_path / "x.gguf", "x"), code=TRANSFORMERS)


def test_no_stages_of_layers(tmp_path: Path) -> None:
    files = make_model_for_transformers("arcee", tmp_path)
    with pytest.raises(ConfigError, match="--pipeline-parallel-size 2: layers of a model that runs through transformers stay together"):
        check_stages(ParallelConfig(pipeline_parallel_size=2), read_config(files), num_devices=None)


@pytest.mark.parametrize("model_type", ["arcee", "glm4", "olmo3", "phi"])
def test_weights_are_estimated_from_the_config_alone(tmp_path: Path, model_type: str) -> None:
    """Biases and norms are left out of it."""
    files = make_model_for_transformers(model_type, tmp_path)
    shape = read_shape(ServerConfig.model_validate({"model": {"model": "m"}}), files)
    shapes = weight_shapes(shape)
    sizes = [shapes.count(name) * linear.shape[0] * linear.shape[1] for name, linear in shapes.linears.items()]
    tables = [a * b for (a, b) in (other for other in shapes.others.values() if len(other) == 2)]
    counted = sum(p.numel() for p in transformers_model(files).parameters())
    assert sum(sizes) + sum(tables) == pytest.approx(counted, rel=0.03)
