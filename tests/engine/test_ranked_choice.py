"""Tokens chosen over ranks that have a part of the vocabulary each, and how much they exchange for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from counted_group import counted
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from tiny_models import make_tiny_model

from headway.kernels.sampling import BROKEN, sample_tokens
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.draw import wants_top_token_only
from headway.server.engine.ranked_choice import RankedChoice, RankShare
from headway.server.engine.resident import Resident
from headway.server.engine.sampler import SamplingState
from headway.server.loading.loader import load_model
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles
from headway.server.types import SamplingParams

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0.0)
TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31]


def load(files: ModelFiles, group: TensorParallelGroup, *, has_whole_experts: bool = False) -> LoadedModel:
    return load_model(
        files,
        dtype="float32",
        device=CPU,
        quantization="none",
        load_format="auto",
        group=group,
        seed=0,
        has_whole_experts=has_whole_experts,
    )


def choice_of(loaded: LoadedModel, group: TensorParallelGroup, *, has_processors: bool = False) -> RankedChoice:
    size = loaded.config.vocab_size
    sampling = SamplingState(4, size, CPU, seed=1) if group.rank == 0 else None
    return RankedChoice(Resident(loaded.model, [], lambda model: None), RankShare(group, size, has_processors), sampling)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_first_maximum_of_the_whole_vocabulary(size: int) -> None:
    """Also where it is found twice, is none, or the vocabulary is padded."""
    generator = torch.Generator().manual_seed(0)
    vocab_size, width = 10, -(-10 // size)
    logits = torch.randn(40, vocab_size, generator=generator).round()  # many that are alike
    logits[0] = -torch.inf
    logits[1, 9] = torch.nan
    logits[2, 0] = torch.inf
    logits[3, :9] = -torch.inf
    padded = torch.cat([logits, torch.full((40, size * width - vocab_size), -torch.inf)], dim=1)

    def work(group: TensorParallelGroup) -> list[int]:
        unused: Any = None
        choice = RankedChoice(unused, RankShare(group, vocab_size, False), None)
        found: list[int] = choice._most_likely(padded[:, group.rank * width :][:, :width]).tolist()
        return found

    expected = sample_tokens(logits, None).tolist()
    assert expected[:4] == [BROKEN, BROKEN, BROKEN, 9]
    assert run_ranks(size, work) == [expected] * size


@pytest.mark.parametrize(("name", "size"), [("llama", 2), ("llama-three", 3)])
def test_every_rank_hears_what_one_device_would_choose(tmp_path: Path, name: str, size: int) -> None:
    files = make_tiny_model(name, tmp_path)
    options = [GREEDY, SamplingParams(temperature=1.0, seed=4), SamplingParams(temperature=0.0, logit_bias={5: 100.0})]

    def work(group: TensorParallelGroup) -> list[list[int]]:
        loaded = load(files, group)
        hidden = torch.randn(3, loaded.config.hidden_size, generator=torch.Generator().manual_seed(2))
        choice = choice_of(loaded, group)
        for row, sampling in enumerate(options):
            choice.add(row, sampling, [1, 2], 2)
        alone = choice.prepare(hidden[:1], [0])().on_device.tolist()
        together = choice.prepare(hidden, [0, 1, 2])().on_device.tolist()
        if group.rank == 0:
            state = SamplingState(3, loaded.config.vocab_size, CPU, seed=1)
            for row, sampling in enumerate(options):
                state.add(row, sampling, [1, 2], 2)
            assert state.choose(loaded.model.logits(hidden), [0, 1, 2]).on_device.tolist() == together
        else:
            loaded.model.logits(hidden)
        return [alone, together]

    found = run_ranks(size, work)
    assert found == [found[0]] * size
    assert found[0][0] == found[0][1][:1]
    assert found[0][1][2] == 5


@pytest.mark.parametrize(
    ("changes", "is_enough"),
    [
        ({}, True),
        ({"max_tokens": 3, "stop_token_ids": (3,), "eos_token_ids": (2,), "top_p": 0.5, "seed": 3, "prompt_logprobs": 1}, True),
        ({"temperature": 1.0, "top_k": 1}, True),
        ({"temperature": 1.0}, False),
        ({"logprobs": 0}, False),
        ({"min_tokens": 1}, False),
        ({"logit_bias": {1: 1.0}}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"bad_words": ((1,),)}, False),
        ({"allowed_token_ids": (1,)}, False),
    ],
)
def test_who_wants_no_more_than_the_most_likely_token(changes: dict[str, Any], is_enough: bool) -> None:
    assert wants_top_token_only(SamplingParams(**{"temperature": 0.0, **changes})) is is_enough


def test_collectives_are_those_of_the_theory(tmp_path: Path) -> None:
    """Shoeybi et al., arXiv:1909.08053: two sums a layer, one for the embedding; and what docs/scaling.md says of the logits."""
    files = make_tiny_model("llama", tmp_path)

    def work(group: TensorParallelGroup) -> list[list[tuple[str, int]]]:
        group, counter = counted(group)
        loaded = load(files, group)
        stepper, taken = Stepper(loaded.model), [counter.take()]
        batch, token_ids = stepper._batch([(Sequence(TOKEN_IDS), 4), (Sequence(TOKEN_IDS[::-1]), 6)])
        hidden = loaded.model.forward(token_ids, stepper.kv, batch)[:2]
        taken.append(counter.take())
        for sampling in (GREEDY, SamplingParams()):
            choice = choice_of(loaded, group)
            choice.add(0, GREEDY, [1], 1)
            choice.add(1, sampling, [1], 1)
            choice.prepare(hidden, [0, 1])()
            taken.append(counter.take())
        choice = choice_of(loaded, group, has_processors=True)
        choice.add(0, GREEDY, [1], 1)
        choice.prepare(hidden[:1], [0])()
        return [*taken, counter.take()]

    config = load(files, TensorParallelGroup()).config
    stream, logits = 10 * config.hidden_size * 4, -(-config.vocab_size // 2) * 4
    for rank, taken in enumerate(run_ranks(2, work)):
        loading, forward, greedy, sampled, processed = taken
        assert loading == []
        assert forward == [("allreduce", stream)] * (2 * config.num_layers + 1)
        assert greedy == [("allgather", 2 * 16)]
        assert [name for name, _ in sampled] == ["gather", "broadcast"] == [name for name, _ in processed]
        if rank:  # rank 0's has room for everybody's
            assert sampled == [("gather", 2 * logits), ("broadcast", 2 * 8)]


@pytest.mark.parametrize("has_whole_experts", [False, True], ids=["cut", "whole"])
@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss"])
def test_a_mixture_exchanges_what_a_plain_layer_does(tmp_path: Path, name: str, has_whole_experts: bool) -> None:
    """Routed and shared experts in one sum a layer, whichever ranks hold them."""
    files = make_tiny_model(name, tmp_path)

    def work(group: TensorParallelGroup) -> list[tuple[str, int]]:
        group, counter = counted(group)
        loaded = load(files, group, has_whole_experts=has_whole_experts)
        stepper = Stepper(loaded.model)
        batch, token_ids = stepper._batch([(Sequence(TOKEN_IDS), 4), (Sequence(TOKEN_IDS[::-1]), 6)])
        loaded.model.forward(token_ids, stepper.kv, batch)
        return counter.take()

    config = load(files, TensorParallelGroup()).config
    assert run_ranks(2, work) == [[("allreduce", 10 * config.hidden_size * 4)] * (2 * config.num_layers + 1)] * 2


def test_prompt_tokens_are_scored_by_rank_0(tmp_path: Path) -> None:
    files = make_tiny_model("llama-tied", tmp_path)

    def work(group: TensorParallelGroup) -> list[Any]:
        loaded = load(files, group)
        hidden = torch.randn(3, loaded.config.hidden_size, generator=torch.Generator().manual_seed(2))
        return choice_of(loaded, group).score_prompt(hidden, [4, 5, 6], 1)

    first, *others = run_ranks(4, work)
    assert [entry.token_id for entry in first] == [4, 5, 6]
    assert all(len(entry.top) == 1 and entry.logprob < 0 for entry in first)
    assert others == [[]] * 3
