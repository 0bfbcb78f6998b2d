"""Ranks that share sequences (context parallel), or a step's tokens (sequence parallel), compute what one device computes."""

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
from headway.server.distributed.sequence_share import WHOLE
from headway.server.errors import ModelSourceError
from headway.server.loading.loader import LoadedModel, Quantization, load_model
from headway.server.source.files import ModelFiles

TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31, 5, 5, 200, 42, 8, 90]


def load(files: ModelFiles, group: TensorParallelGroup, quantization: Quantization = "none", dtype: str = "float32") -> LoadedModel:
    return load_model(files, dtype=dtype, device=torch.device("cpu"), quantization=quantization, load_format="auto", group=group, seed=0)


def logits_of(loaded: LoadedModel, group: TensorParallelGroup = SINGLE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A prefill, a chunk beside a decode, two prefills, decodes: tokens in numbers that two ranks do not divide, too."""
    share = WHOLE if group.context is None else group.context.share
    stepper = Stepper(loaded.model, seed=1, share=share, dtype=dtype)
    first, second, third = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1]), Sequence(TOKEN_IDS[3:])
    plans = [[(first, 5)], [(first, 1), (second, 6)], [(third, 9), (second, 2)], [(second, 1), (first, 1), (third, 1)]]
    return torch.cat([part for plan in plans for part in stepper.step(plan)])


@pytest.mark.parametrize(
    ("name", "changes", "size", "layout"),
    [
        ("llama", {"num_key_value_heads": 1}, 2, Layout(2)),
        ("llama", {"num_key_value_heads": 1}, 4, Layout(4, 2)),
        ("llama-biased", {"num_key_value_heads": 1}, 2, Layout(2, 4, shards_tokens=True)),
        ("mistral", {"num_key_value_heads": 1}, 2, Layout(2)),
        ("qwen2-window", {"num_key_value_heads": 1}, 2, Layout(2)),
        ("qwen3", {}, 4, Layout(2)),  # two groups
        *[(name, {"num_key_value_heads": 1}, 2, Layout(2)) for name in ("gemma2", "gemma3", "olmo2", "cohere-plus", "mixtral")],
        ("deepseek-v3", {}, 2, Layout(2)),  # every rank has all latents, of its tokens
        ("llama-three", {}, 3, Layout(shards_tokens=True)),
        ("llama-biased", {}, 2, Layout(shards_tokens=True)),
        ("llama-tied", {}, 4, Layout(shards_tokens=True)),
        ("qwen3", {}, 2, Layout(shards_tokens=True)),
        *[(name, {}, 2, Layout(shards_tokens=True)) for name in ("gemma2", "granite", "olmo2", "cohere", "starcoder2")],
        *[(name, {}, 2, Layout(shards_tokens=True)) for name in ("mixtral", "qwen2-moe", "gpt-oss", "deepseek-v2")],
    ],
    ids=str,
)
def test_ranks_agree_with_one_device(tmp_path: Path, name: str, changes: dict[str, Any], size: int, layout: Layout) -> None:
    files = make_tiny_model(name, tmp_path, **changes)
    expected = logits_of(load(files, SINGLE))
    for found in run_ranks(size, lambda group: logits_of(load(files, group), group), layout):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_learned_positions_are_refused(tmp_path: Path) -> None:
    files = make_tiny_model("gpt2", tmp_path)
    with pytest.raises(ModelSourceError, match=r"has learned positions, .*; leave out enable_sp"):
        run_ranks(2, lambda group: load(files, group), Layout(shards_tokens=True))


def test_in_bf16_ranks_agree_as_nearly_as_tensor_parallel_ones(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path, num_key_value_heads=1)
    exact = logits_of(load(files, SINGLE))

    def error(layout: Layout) -> float:
        def work(group: TensorParallelGroup) -> torch.Tensor:
            return logits_of(load(files, group, dtype="bfloat16"), group, torch.bfloat16)

        return float((run_ranks(2, work, layout)[0] - exact).norm() / exact.norm())

    assert error(Layout(2, shards_tokens=True)) < 1.5 * error(Layout())


def test_int8_weights_with_shared_tokens(tmp_path: Path) -> None:
    """Activations are rounded token by token, wherever the tokens are: the same numbers as without, but for the order of sums."""
    files = make_tiny_model("llama", tmp_path, num_key_value_heads=1)

    def work(group: TensorParallelGroup) -> torch.Tensor:
        return logits_of(load(files, group, "int8"), group)

    plain = run_ranks(2, work)[0]
    for layout in (Layout(shards_tokens=True), Layout(2)):
        for found in run_ranks(2, work, layout):
            assert (found - plain).norm() / plain.norm() < 0.01


def test_collectives_are_those_of_the_theory(tmp_path: Path) -> None:
    """As docs/scaling.md has them: a sum of shared tokens is a reduce-scatter and an all-gather; sequences that are shared take an
    all-gather of queries, and an all-to-all of as many values, each head with its log-sum-exp."""
    files = make_tiny_model("llama", tmp_path, num_key_value_heads=1)
    config = load(files, SINGLE).config
    num_tokens, num_layers = 7, config.num_layers

    def forward(group: TensorParallelGroup) -> list[tuple[str, int]]:
        group, counter = counted(group)
        model = load(files, group).model
        share = WHOLE if group.context is None else group.context.share
        stepper = Stepper(model, share=share)
        batch, token_ids = stepper._batch([(Sequence(TOKEN_IDS), num_tokens)])
        assert counter.take() == []
        model.forward(token_ids, stepper.kv, batch)
        return counter.take()

    padded = 8 * config.hidden_size * 4
    scatter, gather = ("_reduce_scatter_base", padded), ("_allgather_base", padded // 2)
    shared_tokens = [scatter, *[gather, scatter] * 2 * num_layers, gather]
    assert run_ranks(2, forward, Layout(shards_tokens=True)) == [shared_tokens] * 2

    own_heads = num_tokens * config.num_heads // 2
    total = ("allreduce", num_tokens * config.hidden_size * 4)
    attention = [("allgather", own_heads * config.head_dim * 4), ("alltoall_base", 2 * own_heads * (config.head_dim * 4 + 4))]
    shared_sequences = [total, *[*attention, total, total] * num_layers]
    assert run_ranks(2, forward, Layout(context_size=2)) == [shared_sequences] * 2
