"""Every family in the engine: 64 greedy tokens are transformers' own, with prompts cut into chunks and prefixes found in the cache."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from engine_driver import make_engine, request, run
from gguf_files import convert_to_gguf
from tiny_models import TINY_MODELS, YARN_ROPE, make_tiny_model, transformers_model

from headway.server.source.files import ModelFiles

NUM_TOKENS = 64
_VARIANTS = {"llama-tied", "llama-three", "llama-biased", "llama-linear", "llama-yarn", "mistral-full", "qwen2"}
SHARED = random.Random(0).choices(range(3, 259), k=37)
PROMPTS = [[*SHARED, *random.Random(i).choices(range(3, 259), k=n)] for i, n in enumerate((5, 23, 1), 1)]


@pytest.mark.parametrize("name", sorted(set(TINY_MODELS) - _VARIANTS))
def test_tokens_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    assert_same_tokens(files, files)


def test_tokens_of_a_gguf_with_latents(tmp_path: Path) -> None:
    """It does not say mscale, and means that it is mscale_all_dim."""
    rope = YARN_ROPE | {"mscale": 0.7, "mscale_all_dim": 0.7}
    original = make_tiny_model("deepseek-v3", tmp_path / "hf", rope_parameters=rope)
    assert_same_tokens(convert_to_gguf(original, tmp_path / "m.gguf", "deepseek2"), original)


def assert_same_tokens(files: ModelFiles, original: ModelFiles) -> None:
    """Those of ``files`` here as those of ``original`` there."""
    engine = make_engine(
        files,
        model={"max_model_len": 256},
        scheduler={"max_num_batched_tokens": 16, "max_num_seqs": 4},
        cache={"block_size": 4, "num_gpu_blocks_override": 128},
    )
    asked = [request(f"r{i}", prompt, max_tokens=NUM_TOKENS, ignore_eos=True) for i, prompt in enumerate(PROMPTS)]
    outputs = run(engine, asked[:1]) | run(engine, asked[1:])
    assert [outputs[f"r{i}"].num_cached_tokens for i in range(3)] == [0, 36, 36]
    reference = transformers_model(original)
    for i, prompt in enumerate(PROMPTS):
        answer = outputs[f"r{i}"].token_ids
        assert len(answer) == NUM_TOKENS
        # Each of them is the one that transformers would choose behind those before it, so that they are those it generates.
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert answer == logits.argmax(-1).tolist()
