"""What is copied out, what comes back, and who holds which blocks meanwhile: without tensors, files or threads."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.engine.batch import BatchPlan, BatchResult, RowError, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.offload.policy import OffloadPolicy
from headway.server.engine.kv.transfer.offload.tier import Tier
from headway.server.engine.kv.transfer.orders import Copied, Discard, Found, Load, Loaded, Order, Save, Saved
from headway.server.engine.request import Request
from headway.server.engine.scheduler import Scheduler
from headway.server.stats import OffloadStats
from headway.server.types import FinishReason, GenerateRequest, SamplingParams, TokenDelta

BLOCK = 4


class Server:
    """A scheduler with its policy; the test says what the workers report."""

    def __init__(self, *, memory: int = 16, disk: int = 0, num_blocks: int = 8, num_ranks: int = 1) -> None:
        self.kv = KVCacheManager(num_blocks, BLOCK, enable_prefix_caching=True)
        tiers = {"memory": Tier(memory) if memory else None, "disk": Tier(disk) if disk else None}
        self.policy = OffloadPolicy(self.kv, num_ranks=num_ranks, **tiers)
        self.scheduler = Scheduler(kv=self.kv, max_num_batched_tokens=64, max_num_seqs=4, max_model_len=64, connector=self.policy)
        self.deltas: list[TokenDelta] = []

    def add(self, name: str, num_tokens: int, first: int = 0, **facts: Any) -> None:
        prompt = list(range(first, first + num_tokens))
        sampling = SamplingParams(max_tokens=facts.pop("max_tokens", 1))
        self.scheduler.add(GenerateRequest(name, prompt, sampling, 0.0, **facts))

    def step(self, row: RowResult | None = None) -> BatchPlan | None:
        plan = self.scheduler.schedule()
        if plan is not None:
            self.deltas += self.scheduler.update(plan, BatchResult([row or RowResult([1]) for _ in plan.scheduled]))
        self.scheduler.check()
        return plan

    def compute(self, name: str, num_tokens: int, first: int = 0, **facts: Any) -> None:
        """To the end, and what is to be copied is."""
        self.add(name, num_tokens, first, **facts)
        while not self.has_ended(name):
            assert self.step() is not None
        self.save()

    def save(self) -> list[Order]:
        """Carries out what is ordered. Returns that."""
        done: list[Order] = []
        while orders := self.policy.take_orders():
            done += orders
            for order in orders:
                if isinstance(order, Save):
                    self.policy.take_in([Copied(order.save_id), Saved(order.save_id, True, True, 10, 0.1)])
        return done

    def load(self) -> Load:
        [order] = [order for order in self.policy.take_orders() if isinstance(order, Load)]
        return order

    def loaded(self, order: Load, *, lost: int = 0) -> None:
        hashes = [block.block_hash for block in order.blocks[:lost]]
        self.policy.take_in([Loaded(order.load_id, "They are gone." if lost else None, hashes, 10, 0.1)])

    def has_ended(self, name: str) -> bool:
        return any(delta.request_id == name and delta.finish_reason is not None for delta in self.deltas)

    def end_of(self, name: str) -> TokenDelta:
        [end] = [delta for delta in self.deltas if delta.request_id == name and delta.finish_reason is not None]
        return end

    @property
    def counts(self) -> OffloadStats:
        counts = self.policy.take_stats().offload
        assert counts is not None
        return counts


def amounts(plan: BatchPlan | None) -> list[int]:
    return [] if plan is None else [row.num_tokens for row in plan.scheduled]


def test_what_the_cache_has_dropped_comes_back() -> None:
    server = Server()
    server.compute("a", 14)
    server.compute("b", 30, first=100)
    server.add("a2", 14)
    assert server.step() is None
    order = server.load()
    assert [block.slot for block in order.blocks] == [2, 1, 0]
    assert server.policy.is_fetching
    server.loaded(order)
    assert amounts(server.step()) == [2]
    end = server.end_of("a2")
    assert (end.num_fetched_tokens, end.num_cached_tokens, end.finish_reason) == (12, 12, FinishReason.LENGTH)
    stats = server.policy.take_stats()
    assert (stats.num_queried_tokens, stats.num_fetched_tokens) == (14 + 30 + 14, 12)
    server.save()
    assert server.kv.num_used_blocks == 0


def test_only_what_is_behind_the_cached_prefix_comes() -> None:
    server = Server()
    server.compute("a", 14)
    server.compute("b", 22, first=100)  # six blocks: of a's three full ones the last goes, and one that was never full
    server.add("a2", 14)
    server.step()
    order = server.load()
    assert len(order.blocks) == 1
    server.loaded(order)
    assert amounts(server.step()) == [2]
    assert (server.end_of("a2").num_fetched_tokens, server.end_of("a2").num_cached_tokens) == (4, 12)


def test_a_block_that_is_copied_is_given_to_nobody_until_then() -> None:
    server = Server(num_blocks=8)
    server.add("a", 9)
    server.step()
    [save] = server.policy.take_orders()
    assert isinstance(save, Save)
    assert [block.slot for block in save.blocks] == [0, 1]
    assert (server.kv.num_used_blocks, server.has_ended("a")) == (2, True)
    assert not server.kv.has_holders, "no request has them"
    server.add("b", 28, first=100)
    assert server.step() is None, "it needs seven blocks, and two are read"
    server.policy.take_in([Copied(save.save_id)])
    assert amounts(server.step()) == [28]
    server.policy.take_in([Saved(save.save_id, True, True, 0, 0.0)])
    assert not server.policy.num_external_tokens(Request.of(GenerateRequest("x", [7] * 9, SamplingParams(), 0.0)), 0)


def test_a_part_of_the_cache_is_copied_at_a_time_and_what_goes_before_its_turn_is_counted() -> None:
    server = Server(num_blocks=8)
    server.add("a", 29)
    server.step()
    [save] = server.policy.take_orders()
    assert isinstance(save, Save)
    assert len(save.blocks) == 2
    server.add("b", 24, first=100)
    server.step()
    server.policy.take_in([Copied(save.save_id), Saved(save.save_id, True, True, 0, 0.0)])
    server.save()
    assert server.counts.num_missed_blocks > 0
    assert not server.policy.has_leases


def test_a_request_computes_what_does_not_come() -> None:
    server = Server(disk=16, memory=0)
    server.compute("a", 14)
    server.compute("b", 30, first=100)
    server.add("a2", 14)
    server.step()
    server.loaded(server.load(), lost=2)
    assert amounts(server.step()) == [14]
    orders = server.save()
    assert sum(isinstance(order, Discard) for order in orders) == 2
    assert (server.end_of("a2").num_fetched_tokens, server.end_of("a2").finish_reason) == (0, FinishReason.LENGTH)
    assert server.counts.num_failed_loads == 1
    assert server.kv.num_used_blocks == 0


@pytest.mark.parametrize("is_arrived", [False, True])
def test_a_request_that_ends_while_its_blocks_are_filled(is_arrived: bool) -> None:
    server = Server()
    server.compute("a", 14)
    server.compute("b", 30, first=100)
    server.add("a2", 14)
    server.step()
    order = server.load()
    if is_arrived:
        server.loaded(order)
    server.scheduler.abort(["a2"])
    server.scheduler.check()
    assert server.kv.num_used_blocks == (0 if is_arrived else 3), "nobody else gets what is written"
    if not is_arrived:
        server.loaded(order)
    assert server.kv.num_used_blocks == 0
    assert not server.policy.is_fetching


def test_every_rank_has_a_block_or_none() -> None:
    server = Server(num_ranks=2, disk=4)
    server.add("a", 9)
    server.step()
    [save] = server.policy.take_orders()
    assert isinstance(save, Save)
    server.policy.take_in([Copied(save.save_id), Saved(save.save_id, True, True, 1, 0.0), Copied(save.save_id)])
    assert server.kv.num_used_blocks == 0
    again = Request.of(GenerateRequest("x", list(range(9)), SamplingParams(), 0.0))
    assert server.policy.num_external_tokens(again, 0) == 0, "one rank is not done"
    server.policy.take_in([Saved(save.save_id, True, False, 1, 0.0)])
    assert server.policy.num_external_tokens(again, 0) == 8, "in memory"
    assert [order for order in server.policy.take_orders() if isinstance(order, Discard)], "files that one rank has not are no use"
    assert server.counts.num_failed_saves == 1


def test_what_all_ranks_have_from_before_is_found_and_the_rest_goes() -> None:
    server = Server(num_ranks=2, memory=0, disk=2)
    request = Request.of(GenerateRequest("x", list(range(13)), SamplingParams(), 0.0))
    first, second, third = server.kv.block_hashes(request, 3)
    server.policy.take_in([Found([third, second, first])])
    assert server.policy.num_external_tokens(request, 0) == 0
    server.policy.take_in([Found([second, first, third])])
    assert server.policy.num_external_tokens(request, 0) == 8, "of three the oldest has no room"
    assert server.policy.take_orders() == [Discard([third])]
    alone = Server(num_ranks=2, memory=0, disk=2)
    alone.policy.take_in([Found([first]), Found([])])
    assert alone.policy.take_orders() == [Discard([first])]


def test_files_are_bounded() -> None:
    server = Server(memory=0, disk=2)
    server.compute("a", 9)
    server.add("b", 9, first=100)
    server.step()
    kinds = [type(order) for order in server.save()]
    assert kinds == [Discard, Discard, Save]


def test_what_broke_a_step_is_not_kept() -> None:
    server = Server(disk=8)
    server.add("a", 9, max_tokens=9)
    server.step()
    server.save()
    again = Request.of(GenerateRequest("x", list(range(9)), SamplingParams(), 0.0))
    assert server.policy.num_external_tokens(again, 0) == 8
    plan = server.scheduler.schedule()
    assert plan is not None

    server.scheduler.update(plan, BatchResult([RowResult([], error=RowError("It broke."))]))
    assert server.policy.num_external_tokens(again, 0) == 0
    assert len([order for order in server.save() if isinstance(order, Discard)]) == 2


def test_blocks_of_an_adapter_become_no_files() -> None:
    server = Server(disk=8)
    server.compute("a", 9, adapter_id=1)
    request = Request.of(GenerateRequest("x", list(range(9)), SamplingParams(), 0.0, adapter_id=1))
    assert server.policy.num_external_tokens(request, 0) == 8
    assert server.counts.disk_usage == 0
    other = Request.of(GenerateRequest("y", list(range(9)), SamplingParams(), 0.0, cache_salt="tenant"))
    assert server.policy.num_external_tokens(other, 0) == 0


def test_what_comes_from_a_file_is_kept_in_memory() -> None:
    server = Server(memory=3, disk=20)
    server.compute("a", 14)
    server.compute("b", 30, first=100)
    server.add("a2", 14)
    server.step()
    order = server.load()
    assert [block.slot for block in order.blocks] == [None, None, None]
    server.loaded(order)
    server.step()
    [save] = [one for one in server.save() if isinstance(one, Save)][-1:]
    assert all(not block.is_filed for block in save.blocks)


def test_prompt_logprobs_come_from_computing_the_prompt() -> None:
    server = Server()
    server.compute("a", 9)
    server.kv.reset_prefix_cache()
    request = Request.of(GenerateRequest("x", list(range(9)), SamplingParams(prompt_logprobs=0), 0.0))
    assert server.policy.num_external_tokens(request, 0) == 0


def test_a_preempted_request_fetches_what_it_had_and_counts_it_once() -> None:
    server = Server(num_blocks=8)
    server.add("a", 9, max_tokens=8)
    server.step()
    server.save()
    server.scheduler.preempt_all()
    server.kv.reset_prefix_cache()
    server.step()
    server.loaded(server.load())
    while not server.has_ended("a"):
        server.step()
        server.save()
    assert (server.end_of("a").num_cached_tokens, server.end_of("a").num_fetched_tokens) == (0, 0)
