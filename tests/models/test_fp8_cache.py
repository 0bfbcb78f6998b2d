"""Models over keys and values in fp8: nearly the same function, and the same one however the work is cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from demo_model import demo_files
from engine_driver import make_engine, request, run
from forward_batches import Stepper
from perplexity import english_tokens, log_probabilities, perplexity
from tiny_models import make_tiny_model

from headway.kernels.kv_cache import FP8, KVScales
from headway.server.distributed.groups import SINGLE
from headway.server.layers.attention import Attention
from headway.server.loading.loader import load_model
from headway.server.models.base import Model
from headway.server.source.files import ModelFiles

TOKEN_IDS = random.Random(0).choices(range(259), k=40)


def load(files: ModelFiles) -> Model:
    device = torch.device("cpu")
    return load_model(files, dtype="float32", device=device, quantization="none", load_format="auto", group=SINGLE, seed=0).model


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_logits_are_near_and_do_not_depend_on_the_chunks(tmp_path: Path, name: str) -> None:
    model = load(make_tiny_model(name, tmp_path))
    exact = Stepper(model).run(TOKEN_IDS, [40])
    rounded = Stepper(model, dtype=FP8).run(TOKEN_IDS, [40])
    assert 0 < (rounded - exact).std() < 0.12 * exact.std()  # a number of fp8 is off by 6% at most
    # A key that lies between two numbers of fp8 may be rounded to the other one; few do.
    assert (Stepper(model, dtype=FP8).run(TOKEN_IDS, [30, 1, 9]) - rounded).abs().mean() < 1e-3


def test_scales_that_fit_lose_less_than_those_that_do_not(tmp_path: Path) -> None:
    model = load(make_tiny_model("llama", tmp_path))
    exact = Stepper(model).run(TOKEN_IDS, [40])
    errors = []
    for scales in (KVScales(0.01, 0.01), KVScales(1e4, 1e4)):
        for _, layer in model.named_layers():
            if isinstance(layer, Attention):
                layer.kv_scales = scales
        errors.append((Stepper(model, dtype=FP8).run(TOKEN_IDS, [40]) - exact).std())
        assert torch.equal(Stepper(model).run(TOKEN_IDS, [40]), exact), "pages in fp32 have no scales"
    assert errors[0] < 0.5 * errors[1]


def test_perplexity_of_the_demo_model() -> None:
    model, tokens = load(demo_files()), english_tokens()[:800]
    exact, rounded = (perplexity(log_probabilities(model, tokens, dtype=dtype), tokens) for dtype in (torch.float32, FP8))
    print(f"perplexity over {len(tokens)} tokens: keys and values in fp32 {exact:.3f}, in fp8 {rounded:.3f} ({rounded / exact - 1:+.2%})")
    assert abs(rounded / exact - 1) < 0.02


def test_an_engine_answers_alike_however_its_steps_are_filled(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    prompts = [random.Random(i).choices(range(3, 259), k=n) for i, n in enumerate((5, 30, 14))]
    answers = []
    for stagger, budget in ((0, 512), (2, 8)):
        cache = {"kv_cache_dtype": "fp8", "num_gpu_blocks_override": 64, "block_size": 4}
        engine = make_engine(
            files, model={"max_model_len": 64}, cache=cache, scheduler={"max_num_batched_tokens": budget, "max_num_seqs": 4}
        )
        asked = [request(f"r{i}", prompt, max_tokens=12, ignore_eos=True) for i, prompt in enumerate(prompts)]
        answers.append({name: output.token_ids for name, output in run(engine, asked, stagger=stagger).items()})
        engine.shutdown()
    assert answers[0] == answers[1]
