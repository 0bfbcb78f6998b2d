"""Experts that move between ranks while steps run: the same logits, less for the busiest rank to do, and what it costs."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from counted_group import counted
from engine_driver import add_adapter, make_engine, request
from forward_batches import Sequence, Stepper
from gloo_ranks import run_ranks
from outputs_alike import LONG, assert_alike, assert_alike_on_too_small_a_cache
from skewed_mixtures import make_skewed_mixture
from tiny_adapters import make_adapter

from headway.server.config.expert_balancing import BalancingSettings
from headway.server.distributed.expert_placement import Placement, rank_loads
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.engine.expert_balancing import ExpertBalancer
from headway.server.layers.balanced_experts import BalancedExperts
from headway.server.loading.loader import LoadedModel, load_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles
from headway.server.types import AdapterRef, GenerateRequest

CPU = torch.device("cpu")
TOKEN_IDS = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31, 8, 90, 91, 5, 6]


def load(files: ModelFiles, group: TensorParallelGroup, num_redundant: int | None) -> LoadedModel:
    return load_model(
        files,
        dtype="float32",
        device=CPU,
        quantization="none",
        load_format="auto",
        group=group,
        seed=0,
        has_whole_experts=num_redundant is not None,
        num_redundant_experts=num_redundant,
    )


def layers_of(loaded: LoadedModel) -> list[BalancedExperts]:
    return [layer for _, layer in loaded.model.named_layers() if isinstance(layer, BalancedExperts)]


def steps_of(loaded: LoadedModel, balancer: ExpertBalancer | None = None) -> torch.Tensor:
    """Logits of chunks beside decodes, from one end of two sequences to the other."""
    stepper = Stepper(loaded.model, seed=1)
    first, second = Sequence(TOKEN_IDS), Sequence(TOKEN_IDS[::-1])
    plans = [[(first, 6)], [(first, 1), (second, 7)], *[[(first, 1), (second, 1)]] * 8]
    found = []
    for plan in plans:
        if balancer is not None:
            balancer.begin_step()
        found += stepper.step(plan)
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "size", "num_redundant"), [("mixtral", 2, 1), ("qwen3-moe", 2, 0), ("qwen3-moe", 4, 6), ("qwen2-moe", 2, 2), ("gpt-oss", 2, 2)]
)
def test_moved_experts_give_the_same_logits(tmp_path: Path, name: str, size: int, num_redundant: int) -> None:
    """Step by step, while some layers have moved already and others have not."""
    files = make_skewed_mixture(name, tmp_path)
    expected = steps_of(load(files, SINGLE, None))
    settings = BalancingSettings(window_size=3, step_interval=2, num_redundant_experts=num_redundant)

    def work(group: TensorParallelGroup) -> tuple[torch.Tensor, list[Placement], Any, list[Placement]]:
        loaded = load(files, group, num_redundant)
        balancer = ExpertBalancer(settings, group, CPU)
        balancer.attach(loaded.model)
        before = [layer.placement for layer in layers_of(loaded)]
        logits = steps_of(loaded, balancer)
        return logits, [layer.placement for layer in layers_of(loaded)], balancer.stats, before

    ranks = run_ranks(size, work)
    for logits, placements, stats, before in ranks:
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        assert placements == ranks[0][1] != before
        assert stats == ranks[0][2]
        assert stats.num_moved_experts >= stats.num_placed_layers > 0
        assert 0.5 < stats.balance <= 1


def test_the_busiest_rank_has_less_to_do(tmp_path: Path) -> None:
    """Two busy experts begin on one rank, and end on two. Only what the window saw counts."""
    files = make_skewed_mixture("mixtral", tmp_path, num_local_experts=4, num_experts_per_tok=1)
    settings = BalancingSettings(window_size=4, step_interval=4)

    def work(group: TensorParallelGroup) -> list[tuple[list[float], list[float]]]:
        loaded = load(files, group, 0)
        balancer = ExpertBalancer(settings, group, CPU)
        balancer.attach(loaded.model)
        layers, stepper = layers_of(loaded), Stepper(loaded.model)
        stepper.step([(Sequence(TOKEN_IDS), 9)])  # as a warm-up: forgotten
        first = [layer.placement for layer in layers]
        balancer.begin_step()
        sequence = Sequence(TOKEN_IDS)
        stepper.step([(sequence, 15)])
        counts = [layer.counts.clone() for layer in layers if layer.counts is not None]
        for _ in range(3 + len(layers)):
            balancer.begin_step()
        loads = [own.tolist() for own in counts]
        assert all(sum(own) == 15 for own in loads)
        placed = zip(loads, first, layers, strict=True)
        return [(rank_loads(own, before), rank_loads(own, layer.placement)) for own, before, layer in placed]

    for found in run_ranks(2, work):
        assert all(before == [15, 0] for before, _ in found)
        assert all(max(after) < 15 for _, after in found)


def test_replicas_take_turns_in_steps_of_one_token(tmp_path: Path) -> None:
    files = make_skewed_mixture("mixtral", tmp_path, num_local_experts=4)

    def work(group: TensorParallelGroup) -> list[list[int]]:
        loaded = load(files, group, 4)  # each rank has all
        balancer = ExpertBalancer(BalancingSettings(num_redundant_experts=4), group, CPU)
        balancer.attach(loaded.model)
        layer, routes, found = layers_of(loaded)[0], torch.tensor([[0, 3]], dtype=torch.int32), []
        for _ in range(4):
            balancer.begin_step()
            found.append([int(slot) for slot in layer._own(routes)[0] < 4])
        return found

    here, there = run_ranks(2, work)
    assert here == [[1, 1], [0, 0], [1, 1], [0, 0]]
    assert there == [[0, 0], [1, 1], [0, 0], [1, 1]]


def test_what_is_exchanged_and_how_much_memory_it_takes(tmp_path: Path) -> None:
    """Counts once an interval, and the moved experts' weights alone, each once; nothing more in any step."""
    files = make_skewed_mixture("mixtral", tmp_path, num_local_experts=4)
    settings = BalancingSettings(window_size=8, step_interval=2)

    def work(group: TensorParallelGroup) -> tuple[list[list[tuple[str, int]]], int, int, list[tuple[Placement, Placement]]]:
        group, counter = counted(group)
        loaded = load(files, group, 0)
        balancer = ExpertBalancer(settings, group, CPU)
        balancer.attach(loaded.model)
        stepper, sequence, taken, placed = Stepper(loaded.model), Sequence(TOKEN_IDS), [], []
        layer = layers_of(loaded)[0]
        for _ in range(3):
            counter.take()
            before = layer.placement
            balancer.begin_step()
            taken.append(counter.take())
            placed.append((before, layer.placement))
            stepper.step([(sequence, 5)])
        row = sum(tensor[0].nbytes for tensor in layer._stacked())
        return taken, row, balancer.most_moved_bytes, placed

    for rank, (taken, row, most, placed) in enumerate(run_ranks(2, work)):
        assert taken[:2] == [[], []]
        before, after = placed[-1]
        num_sent = sum(expert != old for expert, old in zip(after[1 - rank], before[1 - rank], strict=True))
        (name, _), *moved = taken[2]
        assert name == "broadcast"
        assert [kind for kind, _ in moved] == ["alltoall_base"] * 2
        assert sum(num_bytes for _, num_bytes in moved) == num_sent * row > 0
        assert max(num_bytes for _, num_bytes in moved) * 2 <= most


def test_an_engine_answers_as_one_process_does(tmp_path: Path) -> None:
    """Its second rank in a process of its own: through chunks, hits and preemption, with an adapter, and after sleeps of both levels."""
    files = make_skewed_mixture("qwen3-moe", tmp_path / "model", vocab_size=264, decoder_sparse_step=1)
    topics: dict[str, Any] = {
        "scheduler": {"max_num_batched_tokens": 16, "max_num_seqs": 4, "async_scheduling": True},
        "cache": {"block_size": 8, "num_gpu_blocks_override": 18},
        "lora": {"enable_lora": True, "max_loras": 1, "max_lora_rank": 8},
        "model": {"max_model_len": 256},
    }
    eplb = {"window_size": 20, "step_interval": 10, "num_redundant_experts": 2}
    parallel = {"tensor_parallel_size": 2, "enable_expert_parallel": True, "enable_eplb": True, "eplb_config": eplb}
    alone, balanced = make_engine(files, **topics), make_engine(files, **topics, parallel=parallel)
    assert alone.stats().balancing is None
    assert_alike_on_too_small_a_cache(alone, balanced)
    before = balanced.stats().balancing
    assert before is not None
    assert before.num_moved_experts > 0
    targets = ["q_proj", "v_proj", "o_proj"]
    adapter = AdapterRef(1, "a", str(make_adapter(tmp_path / "adapter", read_config(files, {}), targets=targets)))
    for engine in (alone, balanced):
        add_adapter(engine, adapter)
    problems: list[Exception | None] = []
    for level in (1, 2):
        layer = weakref.ref(balanced._balancer._layers[0])  # type: ignore[union-attr]
        balanced.sleep(level, "abort", problems.append)
        balanced.settle()
        assert (layer() is None) == (level == 2)  # nothing keeps the weights
        balanced.wake_up(None)
        adapted = GenerateRequest("adapted", LONG, request("", [1]).sampling, 0.0, adapter_id=1)
        assert_alike(alone, balanced, [adapted, *(request(f"r{i}", LONG[i:], max_tokens=20) for i in range(3))])
    assert problems == [None, None]
    after = balanced.stats().balancing
    assert after is not None
    assert after.num_moved_experts > before.num_moved_experts
    balanced.shutdown()


def test_a_model_that_is_loaded_anew_begins_anew(tmp_path: Path) -> None:
    files = make_skewed_mixture("mixtral", tmp_path, num_local_experts=4)
    expected = steps_of(load(files, SINGLE, None))

    def work(group: TensorParallelGroup) -> torch.Tensor:
        balancer = ExpertBalancer(BalancingSettings(window_size=3, step_interval=2), group, CPU)
        for _ in range(2):
            loaded = load(files, group, 0)
            balancer.attach(loaded.model)
            found = steps_of(loaded, balancer)
        return found

    for found in run_ranks(2, work):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
