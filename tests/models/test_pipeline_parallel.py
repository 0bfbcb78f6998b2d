"""A model whose layers are cut into stages computes, to the bit, what it computes in one piece; and what the stages exchange for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from counted_group import CountedGroup
from forward_batches import Sequence, Stepper
from gguf_files import convert_to_gguf
from gloo_ranks import run_stages
from quantized_files import Form, awq, gptq
from quantized_models import make
from tiny_models import make_tiny_model
from torch import Tensor

from headway.server.distributed.groups import SINGLE, PeerLost
from headway.server.distributed.pipeline import PipelineGroup
from headway.server.distributed.places import WHOLE, PipelineStage
from headway.server.engine.stage_port import StagePort
from headway.server.errors import ModelSourceError
from headway.server.loading.loader import LoadFormat, Quantization, load_model
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles

CPU = torch.device("cpu")
TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31]


def load(
    files: ModelFiles,
    stage: PipelineStage = WHOLE,
    quantization: Quantization = "none",
    load_format: LoadFormat = "auto",
    dtype: str = "float32",
) -> LoadedModel:
    return load_model(files, dtype=dtype, device=CPU, quantization=quantization, load_format=load_format, group=SINGLE, seed=0, stage=stage)


@torch.inference_mode()
def hidden_of(loaded: LoadedModel, port: StagePort, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What this stage gives in a prefill, a chunk beside a decode, and a decode; the last one gives logits."""
    stepper = Stepper(loaded.model, dtype=dtype, seed=1)
    first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
    found = []
    for plan in ([(first, 4)], [(first, 1), (second, 6)], [(second, 1), (first, 1)]):
        batch, token_ids = stepper._batch(plan)
        hidden = loaded.model.forward(port.receive(token_ids), stepper.kv, batch)
        port.pass_on(hidden)
        found.append(loaded.model.logits(hidden) if port.is_last else hidden)
        for sequence, count in plan:
            sequence.num_computed += count
    return found


def port_of(loaded: LoadedModel, group: PipelineGroup, dtype: torch.dtype = torch.float32) -> StagePort:
    return StagePort(group, 16, loaded.config.hidden_size, dtype=dtype, device=CPU)


def logits_of(files: ModelFiles, num_stages: int, **how: Any) -> list[Tensor]:
    dtype: torch.dtype = getattr(torch, how.get("dtype", "float32"))

    stages = [load(files, PipelineStage(index, num_stages), **how) for index in range(num_stages)]

    def work(group: PipelineGroup) -> list[Tensor]:
        loaded = stages[group.stage.index]
        return hidden_of(loaded, port_of(loaded, group, dtype), dtype)

    return run_stages(num_stages, work)[-1]


@pytest.mark.parametrize(
    ("name", "num_stages", "how"),
    [
        ("llama", 2, {}),
        ("llama", 3, {"dtype": "bfloat16"}),
        ("llama-tied", 2, {}),
        ("llama-biased", 3, {}),
        ("qwen2-window", 2, {}),
        ("qwen3", 3, {}),
        *[("gemma2", 2, {}), ("gemma3", 3, {"dtype": "bfloat16"}), ("phi4-mini", 2, {}), ("granite", 2, {}), ("olmo2", 2, {})],
        *[("cohere", 2, {}), ("cohere-plus", 3, {"dtype": "bfloat16"}), ("gpt2", 2, {}), ("opt", 3, {}), ("smollm3", 2, {})],
        *[("mixtral", 2, {}), ("qwen2-moe", 3, {}), ("gpt-oss", 2, {}), ("gpt-oss", 3, {"dtype": "bfloat16"})],
        *[("deepseek-v2-lite", 2, {}), ("deepseek-v3", 3, {"dtype": "bfloat16"})],
        ("llama", 2, {"quantization": "int8"}),
        ("llama-tied", 3, {"quantization": "int8"}),
        ("llama-tied", 2, {"load_format": "dummy"}),
        ("gpt2", 2, {"load_format": "dummy"}),
        ("mixtral", 2, {"load_format": "dummy"}),
    ],
)
def test_stages_agree_with_one_device(tmp_path: Path, name: str, num_stages: int, how: dict[str, Any]) -> None:
    files = make_tiny_model(name, tmp_path)
    for found, expected in zip(logits_of(files, num_stages, **how), logits_of(files, 1, **how), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_the_blocks_of_a_gguf_are_rounded_as_on_one_device(tmp_path: Path, name: str) -> None:
    original = make_tiny_model(name, tmp_path, hidden_size=128, intermediate_size=256)
    files = convert_to_gguf(original, tmp_path / "tiny.gguf", "llama", type_name="Q4_0")
    for found, expected in zip(logits_of(files, 2, quantization="gguf"), logits_of(files, 1, quantization="gguf"), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("name", "form"), [("llama", gptq(desc_act=True)), ("gemma2", gptq()), ("mixtral", awq())])
def test_a_quantised_checkpoint_is_kept_as_on_one_device(tmp_path: Path, name: str, form: Form) -> None:
    files, _ = make(tmp_path, form, name)
    for found, expected in zip(logits_of(files, 2, quantization="kept"), logits_of(files, 1, quantization="kept"), strict=True):
        assert torch.equal(found, expected)


def test_each_stage_has_its_own_weights_and_pages_only(tmp_path: Path) -> None:
    files = make_tiny_model("llama-tied", tmp_path)
    whole, stages = load(files), [load(files, PipelineStage(index, 3)) for index in range(3)]
    names = [{name for name, _ in stage.model.named_weights()} for stage in stages]
    assert set.union(*names) - {"lm_head.weight"} == {name for name, _ in whole.model.named_weights()}
    assert sum(map(len, names)) == len(set.union(*names))
    assert [stage.model.kv_spec.num_layers for stage in stages] == [1, 1, 1]
    assert ["embed_tokens.weight" in own for own in names] == [True, False, False]
    assert ["norm.weight" in own and "lm_head.weight" in own for own in names] == [False, False, True]


def test_a_tensor_without_a_place_is_refused_by_its_stage(tmp_path: Path) -> None:
    """Here a bias of the layer 0; the other stage takes it for none of its own."""
    files = make_tiny_model("llama-biased", tmp_path, num_hidden_layers=2)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"mlp_bias": true', '"mlp_bias": false'))
    for index in (0, 1):
        with pytest.raises(ModelSourceError, match=rf"has the tensors model\.layers\.{index}\.mlp.* no place for"):
            load(files, PipelineStage(index, 2))


def test_what_stages_exchange_is_that_of_the_theory(tmp_path: Path) -> None:
    """The hidden states of each step, once, between each two stages: see docs/scaling.md."""
    files, kept = make_tiny_model("llama", tmp_path), []

    def work(group: PipelineGroup) -> list[tuple[str, int]]:
        counter: Any = CountedGroup(group.process_group)
        counted = PipelineGroup(group.stage, counter)
        kept.append(counted)  # until what it sent has arrived
        loaded = load(files, group.stage)
        hidden_of(loaded, port_of(loaded, counted))
        return counter.take()

    steps = [num_tokens * load(files).config.hidden_size * 4 for num_tokens in (4, 7, 2)]
    received, sent = [("recv", num_bytes) for num_bytes in steps], [("send", num_bytes) for num_bytes in steps]
    both = [call for pair in zip(received, sent, strict=True) for call in pair]
    assert run_stages(3, work) == [sent, both, received]


def test_a_stage_does_not_wait_for_the_next_until_there_are_more_steps_than_stages() -> None:
    def work(group: PipelineGroup) -> list[float]:
        tensors = [torch.full((2,), float(number)) for number in range(4)]
        if group.stage.is_first:
            for tensor in tensors[:2]:
                group.send(tensor)
            group.process_group.barrier().wait()  # type: ignore[union-attr]
            for tensor in tensors[2:]:
                group.send(tensor)
            return []
        group.process_group.barrier().wait()  # type: ignore[union-attr]
        return [float(group.receive(torch.zeros(2))[0]) for _ in tensors]

    assert run_stages(2, work)[1] == [0.0, 1.0, 2.0, 3.0]


def test_a_stage_that_is_lost_is_told() -> None:
    class Broken:
        def recv(self, tensors: list[Tensor], source: int, tag: int) -> Any:
            raise RuntimeError("Connection closed by peer")

        send = recv

    broken: Any = Broken()
    middle = PipelineGroup(PipelineStage(1, 3), broken)
    for exchange in (middle.send, middle.receive):
        with pytest.raises(PeerLost, match="Connection closed by peer"):
            exchange(torch.ones(1))
