"""A model whose prompts are dealt out over ranks computes what it computes on one device, and exchanges what the documentation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from counted_group import counted
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from tiny_models import make_tiny_model

from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.distributed.layout import Layout
from headway.server.loading.loader import LoadedModel, load_model
from headway.server.models.base import DecoderConfig
from headway.server.source.files import ModelFiles

TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31, 8, 90, 91, 5, 6, 200, 13, 14]


def load(files: ModelFiles, group: TensorParallelGroup, **how: Any) -> LoadedModel:
    asked: dict[str, Any] = {"quantization": "none", "load_format": "auto", "seed": 0, **how}
    return load_model(files, dtype="float32", device=torch.device("cpu"), group=group, **asked)


def stepper_of(loaded: LoadedModel, group: TensorParallelGroup, dtype: torch.dtype = torch.float32) -> Stepper:
    share = {} if group.context is None else {"share": group.context.share}
    return Stepper(loaded.model, seed=1, dtype=dtype, **share)


def logits_of(stepper: Stepper) -> torch.Tensor:
    """Chunks of which a rank has more than others or nothing, several prompts in a step, beside decodes, and decodes alone."""
    first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
    plans = [[(first, 5)], [(first, 2)], [(first, 1), (second, 7)], [(first, 4), (second, 3)], [(first, 1), (second, 1)], [(second, 8)]]
    return torch.cat([part for plan in plans for part in stepper.step(plan)])


@pytest.mark.parametrize(
    ("name", "num_ranks", "num_shares", "interleave"),
    [
        *[("llama", 2, 2, 1), ("llama", 3, 3, 2), ("llama", 4, 2, 1), ("llama", 4, 4, 4), ("mistral", 2, 2, 4), ("qwen3", 4, 2, 2)],
        *[("gemma2", 2, 2, 1), ("gemma3", 4, 2, 1), ("gpt2", 2, 2, 2), ("qwen3-moe", 4, 2, 1), ("cohere2", 2, 2, 1)],
        *[("deepseek-v3", 2, 2, 1), ("deepseek-v2", 4, 2, 2)],
    ],
)
def test_ranks_agree_with_one_device(tmp_path: Path, name: str, num_ranks: int, num_shares: int, interleave: int) -> None:
    files = make_tiny_model(name, tmp_path)
    expected = logits_of(stepper_of(load(files, SINGLE), SINGLE))

    def work(group: TensorParallelGroup) -> torch.Tensor:
        return logits_of(stepper_of(load(files, group, has_whole_experts=num_ranks > num_shares), group))

    for found in run_ranks(num_ranks, work, Layout(interleave=interleave, num_prompt_shares=num_shares)):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_is_exchanged(tmp_path: Path) -> None:
    """docs/scaling.md has the sums. 10 tokens of prompts, 5 on each of two ranks, beside one that is decoded."""
    files = make_tiny_model("llama", tmp_path)

    def work(group: TensorParallelGroup) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        group, counter = counted(group)
        loaded = load(files, group)
        stepper = stepper_of(loaded, group)
        first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
        stepper.step([(first, 3)])
        taken = []
        for plan in ([(first, 1), (second, 10)], [(first, 1), (second, 1)]):
            batch, token_ids = stepper._batch(plan)
            counter.take()
            loaded.model.forward(token_ids, stepper.kv, batch)
            taken.append(counter.take())
            for sequence, count in plan:
                sequence.num_computed += count
        return taken[0], taken[1]

    config = load(files, SINGLE).config
    assert isinstance(config, DecoderConfig)
    of_heads, of_found = config.num_heads * config.head_dim * 4, 2 * config.num_heads * (config.head_dim * 4 + 4)
    for prefill, decode in run_ranks(2, work, Layout(num_prompt_shares=2)):
        layer = [("allgather", 5 * of_heads), ("alltoall_base", (1 + 5) * of_found)]
        assert prefill == [*layer * config.num_layers, ("allgather", 5 * config.hidden_size * 4)]
        assert decode == [("alltoall_base", 2 * of_found)] * config.num_layers
