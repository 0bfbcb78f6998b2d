"""Quantised checkpoints in the engine on a CUDA device: what they answer is what the same checkpoint answers on a CPU."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from engine_driver import make_engine, request, run
from quantized_files import Form, awq, compressed_fp8, compressed_int8, compressed_packed, fp8, gptq
from quantized_models import make

from headway.server.source.files import ModelFiles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ALIGNED = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 64}  # no part ends inside a block of 128 rows
PROMPT = random.Random(0).choices(range(259), k=40)
FORMS: dict[str, Form] = {
    "packed": compressed_packed(),
    "packed-order": compressed_packed(actorder=True),
    "awq": awq(),
    "gptq-order": gptq(desc_act=True),
    "gptq-8": gptq(8),
    "fp8-weights": compressed_fp8("tensor", rounds_input=False),
    "int8": compressed_int8(),
    "fp8-channel": compressed_fp8("channel"),
    "fp8": fp8(is_blocked=False),
    "fp8-blocks": fp8(is_blocked=True),
}
LARGEST = 0.02  # difference of a log-probability: activations that are rounded may fall to either side


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_answers_are_those_of_the_cpu(tmp_path: Path, form: Form) -> None:
    files, _ = make(tmp_path, form, **ALIGNED)
    expected, found = scores(files, "cpu"), scores(files, "cuda")
    assert float((found - expected).abs().max()) < LARGEST


def scores(files: ModelFiles, device: str) -> torch.Tensor:
    """Log-probabilities of a prompt's tokens, and of the tokens behind it one step after the other."""
    topics = {"cache": {"num_gpu_blocks_override": 64, "block_size": 16}, "graphs": {"cudagraph_capture_sizes": ["1", "2"]}}
    engine = make_engine(files, model={"max_model_len": 128, "device": device}, **topics)
    follow = [request(f"r{n}", PROMPT[:n], max_tokens=1, prompt_logprobs=0, logprobs=0) for n in (40, 17, 1)]
    # The same tokens behind the prompt on both: else one that is nearly as likely would end the comparison.
    steps = request("steps", PROMPT[:5], max_tokens=8, logprobs=0, ignore_eos=True, allowed_token_ids=[7])
    outputs = run(engine, [*follow, steps])
    found = [entry.logprob for output in outputs.values() for entry in output.prompt_logprobs or [] if entry is not None]
    found += [entry.logprob for entry in outputs["steps"].logprobs]
    engine.shutdown()
    return torch.tensor(found)
