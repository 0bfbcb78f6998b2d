"""A library's attention kernels in the place of ours: chosen once at the start, said, or refused; answers are those that ours give."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_stand_ins import NAMES, StandIns, install
from engine_driver import make_engine, request, run
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from plain_recorder import use_plain_graphs
from tiny_models import make_tiny_model

from headway.kernels.attention_library import LibraryInfo
from headway.kernels.libraries.installed import find_library
from headway.server.config.attention import AttentionConfig, AttentionKind
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.distributed.places import PipelineStage
from headway.server.engine import attention_choice, build
from headway.server.engine.core import EngineCore
from headway.server.errors import ConfigError
from headway.server.loading.loader import load_model
from headway.server.models.base import ModelConfig
from headway.server.sizing.attention_library import check_attention
from headway.server.source.files import ModelFiles

PROMPTS = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 300, 1, 14, 40))]
HOPPER, AMPERE = (9, 0), (8, 0)
# backend, chip -> functions that a run calls
CHOICES = {
    ("FLASH_ATTN", AMPERE): {"flash_attn_with_kvcache", "flash_attn_varlen_func"},
    ("FLASH_ATTN", HOPPER): {"decode", "prefill"},
    ("FLASHINFER", HOPPER): {"plan decode", "plan prefill"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Layers with a window and without, scores that are capped and scaled by a number of their own."""
    return make_tiny_model("gemma2", Path(tmp_path_factory.mktemp("tiny")), seed=1, head_dim=64, num_hidden_layers=2)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """All libraries are installed, and CPU tensors are as good as a GPU's; ours are the references, to which theirs are alike."""
    monkeypatch.setenv("HEADWAY_KERNELS", "reference")
    return install(monkeypatch, *NAMES)


def on_chip(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    def found(config: ServerConfig, device: torch.device) -> LibraryInfo | None:
        asked = config.attention.attention_backend
        return None if asked == "auto" else find_library(asked, capability)  # type: ignore[arg-type]

    def checked(attention: AttentionConfig, config: ModelConfig, *, on_gpu: bool) -> None:
        check_attention(attention, config, on_gpu=True)

    monkeypatch.setattr(build, "chosen_library", found)
    monkeypatch.setattr(build, "check_attention", checked)


def make(files: ModelFiles, backend: str, **topics: Any) -> EngineCore:
    model = {"max_model_len": 512, "dtype": "bfloat16", **topics.pop("model", {})}
    cache = {"num_gpu_blocks_override": 40, **topics.pop("cache", {})}
    scheduler = {"max_num_batched_tokens": 128, **topics.pop("scheduler", {})}  # so that a prompt comes in pieces, beside decodes
    return make_engine(files, model=model, cache=cache, scheduler=scheduler, attention={"attention_backend": backend}, **topics)


def answers(engine: EngineCore) -> dict[str, list[int]]:
    asks = [request(f"r{i}", prompt, max_tokens=8, ignore_eos=True) for i, prompt in enumerate(PROMPTS)]
    return {name: output.token_ids for name, output in run(engine, asks, stagger=1).items()}


@pytest.fixture
def expected(files: ModelFiles, stand_ins: StandIns) -> dict[str, list[int]]:
    return answers(make(files, "auto"))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_answers_are_those_of_ours(
    choice: tuple[str, tuple[int, int]],
    files: ModelFiles,
    stand_ins: StandIns,
    expected: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, capability = choice
    on_chip(monkeypatch, capability)
    engine = make(files, backend)
    assert answers(engine) == expected
    assert stand_ins.calls.keys() == CHOICES[choice]
    told = engine.info.attention
    assert told is not None
    assert told.startswith("FlashInfer 0.6.9" if backend == "FLASHINFER" else "FlashAttention")


def test_padded_steps_that_are_recorded(
    files: ModelFiles, stand_ins: StandIns, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chip(monkeypatch, HOPPER)
    recorder = use_plain_graphs(monkeypatch, (2, 4))
    assert answers(make(files, "FLASH_ATTN")) == expected
    assert set(recorder.replays) == {2, 4}


@pytest.mark.parametrize("choice", [("FLASHINFER", HOPPER), ("FLASH_ATTN", AMPERE)], ids=str)
def test_beside_a_draft_model_which_keeps_our_kernels(
    choice: tuple[str, tuple[int, int]],
    files: ModelFiles,
    stand_ins: StandIns,
    expected: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its heads have 24 numbers, which one library would refuse; its blocks are as large as the other needs those of the large model."""
    backend, capability = choice
    on_chip(monkeypatch, capability)
    small = make_tiny_model("gemma2", tmp_path, seed=2, num_hidden_layers=1)
    asked = {"model": "small", "num_speculative_tokens": 2}
    engine = make(files, backend, speculative={"speculative_config": asked}, draft_files=small)
    assert answers(engine) == expected


@torch.inference_mode()
def logits_of(files: ModelFiles, kind: AttentionKind, num_stages: int = 1, group: TensorParallelGroup = SINGLE) -> torch.Tensor:
    """Of a prefill, a chunk beside a decode, and two decodes; each stage has the library as its process would open it."""
    cpu, size = torch.device("cpu"), {"block_size": 256, "num_blocks": 4, "dtype": torch.bfloat16}
    stages = []
    for index in range(num_stages):
        library = attention_choice.opened_library(kind, cpu)
        how: dict[str, Any] = {"dtype": "bfloat16", "device": cpu, "quantization": "none", "load_format": "auto", "seed": 0}
        stage = PipelineStage(index, num_stages)
        model = load_model(files, group=group, stage=stage, attention=library, **how).model
        stages.append((model, Stepper(model, seed=1, **size), Sequence(PROMPTS[1][:11]), Sequence(PROMPTS[4])))
    found = []
    for first_count, second_count in ((4, 0), (1, 6), (1, 1)):
        given: torch.Tensor | None = None
        for model, stepper, first, second in stages:
            plan = [(first, first_count), (second, second_count)][: 2 if second_count else 1]
            batch, token_ids = stepper._batch(plan)
            given = model.forward(token_ids if given is None else given, stepper.kv, batch)
            for sequence, count in plan:
                sequence.num_computed += count
        assert given is not None
        found.append(stages[-1][0].logits(given))
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["flash_attn_2", "flash_attn_3", "flashinfer"])
def test_each_rank_and_each_stage_has_a_library_of_its_own(kind: AttentionKind, files: ModelFiles, stand_ins: StandIns) -> None:
    expected = logits_of(files, "own")
    torch.testing.assert_close(logits_of(files, kind, num_stages=2), expected, atol=0.02, rtol=0.02)
    assert len(stand_ins.calls) == 2, "decodes and prefills"
    on_two = run_ranks(2, lambda group: logits_of(files, "own", group=group))
    for found, own in zip(run_ranks(2, lambda group: logits_of(files, kind, group=group)), on_two, strict=True):
        torch.testing.assert_close(found, own, atol=0.02, rtol=0.02)


def test_a_model_that_runs_through_transformers(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_chip(monkeypatch, AMPERE)
    files = make_tiny_model("qwen2-window", tmp_path, seed=3, num_hidden_layers=2)
    model = {"model_impl": "transformers"}
    expected = answers(make(files, "auto", model=model))
    assert answers(make(files, "FLASH_ATTN", model=model)) == expected
    assert stand_ins.calls.keys() == CHOICES["FLASH_ATTN", AMPERE]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt-oss", "this model has attention sinks"),
        ("deepseek-v3", "this model keeps one vector of each token for all heads (latent attention)"),
        ("qwen3", "this model has heads of 24 numbers"),
    ],
)
def test_attention_that_a_library_has_not(
    name: str, why: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_chip(monkeypatch, HOPPER)
    with pytest.raises(ConfigError) as caught:
        make(make_tiny_model(name, tmp_path), "FLASHINFER")
    assert caught.value.problems == [f"--attention-backend FLASHINFER: {why}, which only Headway's own kernels take: leave it out"]


def test_a_model_that_pools_has_no_choice(files: ModelFiles) -> None:
    with pytest.raises(ConfigError, match="--attention-backend FLASHINFER is for models that generate text: leave it out"):
        make(files, "FLASHINFER", pooling={"runner": "pooling"})


def test_what_can_not_be_had_is_said(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    config = ServerConfig.model_validate({"model": {"model": "m"}, "attention": {"attention_backend": "FLASH_ATTN"}})
    with pytest.raises(ConfigError) as caught:
        make(files, "FLASH_ATTN")
    assert caught.value.problems == ["--attention-backend FLASH_ATTN is for GPUs, and this runs on a CPU: leave it out"]

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: HOPPER)
    with pytest.raises(ConfigError) as caught:
        attention_choice.chosen_library(config, torch.device("cuda", 0))
    advice = "leave it out, or add what it needs as docs/kernels.md says"
    assert caught.value.problems == [f"--attention-backend FLASH_ATTN: the package flash-attn is not installed: {advice}"]
    with pytest.raises(ConfigError, match="flash-attn is not installed where this rank runs; install it on every host"):
        attention_choice.opened_library("flash_attn_2", torch.device("cpu"))
