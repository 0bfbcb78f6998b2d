"""Quantised checkpoints in the engine on a CUDA device: they answer what the same numbers give on a CPU."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from engine_driver import make_engine, request, run
from forward_batches import Stepper
from gguf_files import convert_to_gguf
from mxfp4_files import make_gpt_oss
from quantized_files import Form, awq, compressed_fp8, compressed_int8, compressed_packed, fp8, gptq
from quantized_models import load, make
from tiny_models import make_tiny_model

from headway.server.loading.loader import Quantization
from headway.server.source.files import ModelFiles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ALIGNED = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 64}  # no part ends inside a block of 128 rows
PROMPT = random.Random(0).choices(range(259), k=40)
EXACT: dict[str, Form] = {
    "packed": compressed_packed(),
    "packed-order": compressed_packed(actorder=True),
    "awq": awq(),
    "gptq-order": gptq(desc_act=True),
    "gptq-8": gptq(8),
    "packed-8": compressed_packed(8),
    "int8-weights": compressed_int8(rounds_input=False),
    "fp8-weights": compressed_fp8("tensor", rounds_input=False),
    "int8": compressed_int8(),
}
ROUNDING: dict[str, Form] = {
    "fp8-channel": compressed_fp8("channel"),
    "fp8": fp8(is_blocked=False),
    "fp8-blocks": fp8(is_blocked=True),
}
FIRST, NUM_STEPS, FOLLOWING = 5, 8, 7  # tokens of a short prompt, and the token that stands behind it so many times


@pytest.mark.parametrize("form", EXACT.values(), ids=EXACT)
def test_answers_are_those_of_the_cpu(tmp_path: Path, form: Form) -> None:
    files, _ = make(tmp_path, form, **ALIGNED)
    assert float((_on_gpu(files) - _on_cpu(files, "kept")).abs().max()) < 0.02


@pytest.mark.parametrize("form", EXACT.values(), ids=EXACT)
def test_answers_of_mixtures_are_those_of_the_cpu(tmp_path: Path, form: Form) -> None:
    files, _ = make(tmp_path, form, "mixtral", **ALIGNED)
    assert float((_on_gpu(files) - _on_cpu(files, "kept")).abs().max()) < 0.02


def test_gpt_oss_in_mxfp4(tmp_path: Path) -> None:
    files, plain = make_gpt_oss(tmp_path)
    assert float((_on_gpu(files) - _on_cpu(plain, "none")).abs().max()) < 0.02


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3-moe"])
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0"])
def test_blocks_of_a_gguf(tmp_path: Path, name: str, type_name: str) -> None:
    """How near what is kept is to the dequantised weights is for tests/models/test_kept_blocks.py to say."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    original = make_tiny_model(name, tmp_path / "hf", **sizes)
    architecture = "qwen3moe" if name == "qwen3-moe" else "llama"
    files = convert_to_gguf(original, tmp_path / "m.gguf", architecture, type_name=type_name)
    assert float((_on_gpu(files) - _on_cpu(files, "gguf_a16")).abs().max()) < 0.02


@pytest.mark.parametrize("form", ROUNDING.values(), ids=ROUNDING)
def test_activations_of_mixtures_are_rounded_to_fp8(tmp_path: Path, form: Form) -> None:
    files, _ = make(tmp_path, form, "mixtral", **ALIGNED)
    rounded = _on_cpu(files, "kept")
    assert (_on_gpu(files) - rounded).abs().mean() < 0.7 * (_on_cpu(files, "none") - rounded).abs().mean()


@pytest.mark.parametrize("form", ROUNDING.values(), ids=ROUNDING)
def test_activations_are_rounded_to_fp8(tmp_path: Path, form: Form) -> None:
    """What falls to the other side of a rounding is 6% larger, and moves what comes after it: so to the bit the two are never alike. But
    the answers are nearer to those of rounded activations than these are to exact ones (H200: at 0.3 to 0.5 of the distance)."""
    files, _ = make(tmp_path, form, **ALIGNED)
    rounded = _on_cpu(files, "kept")
    assert (_on_gpu(files) - rounded).abs().mean() < 0.7 * (_on_cpu(files, "none") - rounded).abs().mean()


def _on_gpu(files: ModelFiles) -> torch.Tensor:
    """Log-probabilities of a prompt's tokens, and of tokens made one step after the other."""
    topics = {"cache": {"num_gpu_blocks_override": 64, "block_size": 16}, "graphs": {"cudagraph_capture_sizes": ["1", "2"]}}
    engine = make_engine(files, model={"max_model_len": 128, "device": "cuda"}, **topics)
    prompt = request("prompt", PROMPT, max_tokens=1, prompt_logprobs=0)
    steps = request("steps", PROMPT[:FIRST], max_tokens=NUM_STEPS, logprobs=0, ignore_eos=True, allowed_token_ids=[FOLLOWING])
    outputs = run(engine, [prompt, steps])
    engine.shutdown()
    found = [entry for entry in outputs["prompt"].prompt_logprobs or [] if entry is not None] + outputs["steps"].logprobs
    return torch.tensor([entry.logprob for entry in found])


def _on_cpu(files: ModelFiles, quantization: Quantization) -> torch.Tensor:
    """The same without an engine, with weights and activations as the format has them ("kept") or with exact activations ("none")."""
    model = load(files, quantization).model

    def scores(token_ids: list[int], num_last: int) -> torch.Tensor:
        rows = Stepper(model).run(token_ids, [len(token_ids)]).log_softmax(-1)[:-1]
        return rows.gather(1, torch.tensor(token_ids[1:])[:, None])[-num_last:, 0]

    return torch.cat((scores(PROMPT, len(PROMPT) - 1), scores(PROMPT[:FIRST] + [FOLLOWING] * NUM_STEPS, NUM_STEPS)))
