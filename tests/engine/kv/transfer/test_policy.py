"""Which KV comes, which is kept, and who holds which blocks meanwhile: without tensors, sockets or threads."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from headway.server.engine.batch import BatchPlan, BatchResult, RowResult, ScheduledRow
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.nixl.policy import Address, NixlPolicy
from headway.server.engine.kv.transfer.orders import Claimed, Computing, Fetch, Fetched, MoreOffered, Offer, Order, Sent, Settled, Withdraw
from headway.server.engine.scheduler import Scheduler
from headway.server.types import FinishReason, GenerateRequest, KVSource, KVTransfer, SamplingParams, TokenDelta

BLOCK = 4
SOURCE = KVSource("other", "secret", "localhost", 5600, 1)


class Server:
    """A scheduler with its policy; the test says what the workers report."""

    def __init__(self, *, recomputes: bool = False, num_ranks: int = 1, num_blocks: int = 16, max_num_seqs: int = 4) -> None:
        self.now = 0.0
        self.kv = KVCacheManager(num_blocks, BLOCK, enable_prefix_caching=True)
        address = Address("me", "localhost", 5600)
        self.policy = NixlPolicy(self.kv, address, num_ranks=num_ranks, recomputes=recomputes, keep_s=100, clock=lambda: self.now)
        self.scheduler = Scheduler(
            kv=self.kv, max_num_batched_tokens=32, max_num_seqs=max_num_seqs, max_model_len=64, connector=self.policy
        )
        self.deltas: list[TokenDelta] = []

    def add(self, request_id: str, num_tokens: int, transfer: KVTransfer | None, max_tokens: int = 1, first: int = 0) -> None:
        prompt = list(range(first, first + num_tokens))
        sampling = SamplingParams(max_tokens=max_tokens)
        self.scheduler.add(GenerateRequest(request_id, prompt, sampling, arrival_time=0.0, kv_transfer=transfer))

    def step(self) -> BatchPlan | None:
        plan = self.scheduler.schedule()
        if plan is not None:
            computed = {new.request_id: new.num_computed_tokens for new in plan.added}
            assert all(amount >= 0 for amount in computed.values())
            self.deltas += self.scheduler.update(plan, BatchResult([RowResult([1]) for _ in plan.scheduled]))
        self.deltas += self.scheduler.take_refused()
        self.scheduler.check()
        return plan

    def orders(self) -> list[Order]:
        return self.policy.take_orders()

    def fetch(self) -> Fetch:
        [order] = self.orders()
        assert isinstance(order, Fetch)
        return order

    def end_of(self, request_id: str) -> TokenDelta:
        [end] = [delta for delta in self.deltas if delta.request_id == request_id and delta.finish_reason is not None]
        return end


def fetched(fetch: Fetch, **facts: object) -> Fetched:
    return Fetched(fetch.fetch_id, **facts)  # type: ignore[arg-type]


def amounts(plan: BatchPlan | None) -> Sequence[int]:
    return [] if plan is None else [row.num_tokens for row in plan.scheduled]


def test_a_fetched_prompt_costs_one_token() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(source=SOURCE), max_tokens=2)
    assert server.step() is None
    order = server.fetch()
    assert (order.first_block, len(order.block_ids), order.source) == (0, 3, SOURCE)
    assert server.policy.is_fetching
    server.policy.take_in([fetched(order)])
    plan = server.step()
    assert plan is not None
    assert amounts(plan) == [1]
    assert plan.added[0].num_computed_tokens == 9
    server.step()
    end = server.end_of("a")
    assert (end.finish_reason, end.num_fetched_tokens, end.num_cached_tokens) == (FinishReason.LENGTH, 9, 9)
    assert server.kv.num_used_blocks == 0
    assert not server.policy.has_leases


def test_what_is_in_the_cache_is_not_fetched() -> None:
    server = Server()
    server.add("a", 10, None)
    server.step()
    server.add("b", 10, KVTransfer(source=SOURCE))
    server.step()
    order = server.fetch()
    assert (order.first_block, len(order.block_ids)) == (2, 1)
    server.policy.take_in([fetched(order)])
    assert amounts(server.step()) == [1]
    assert server.end_of("b").num_fetched_tokens == 1
    assert server.end_of("b").num_cached_tokens == 9


def test_a_prompt_that_is_all_there_is_declined() -> None:
    server = Server()
    server.add("a", 9, None)
    server.step()
    server.add("b", 9, KVTransfer(source=SOURCE))
    assert amounts(server.step()) == [1]
    order = server.fetch()
    assert order.block_ids == []
    assert not server.policy.take_in([]), "nobody waits for the answer"
    server.policy.take_in([fetched(order)])
    assert server.kv.num_used_blocks == 0


def test_prompt_logprobs_come_from_computing_the_prompt() -> None:
    server = Server()
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)
    server.scheduler.add(GenerateRequest("a", list(range(9)), sampling, 0.0, kv_transfer=KVTransfer(source=SOURCE)))
    plan = server.scheduler.schedule()
    assert amounts(plan) == [9]
    assert server.fetch().block_ids == []


def test_others_share_what_was_fetched() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.step()
    server.policy.take_in([fetched(server.fetch())])
    server.step()
    server.add("b", 10, None)
    assert amounts(server.step()) == [2]


@pytest.mark.parametrize("recomputes", [False, True])
def test_kv_that_does_not_come(recomputes: bool) -> None:
    server = Server(recomputes=recomputes)
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.step()
    order = server.fetch()
    server.policy.take_in([fetched(order, error="It is gone.", is_settled=False)])
    plan = server.step()
    assert amounts(plan) == ([10] if recomputes else [])
    if plan is not None:
        assert not set(plan.added[0].block_ids) & set(order.block_ids), "something may still write those"
    end = server.end_of("a")
    assert (end.finish_reason, end.error) == ((FinishReason.LENGTH, None) if recomputes else (FinishReason.ERROR, "It is gone."))
    assert server.kv.num_used_blocks == 3, "the blocks are nobody else's until nothing writes them"
    server.policy.take_in([Settled(order.fetch_id)])
    assert server.kv.num_used_blocks == 0
    assert server.orders() == [], "it is tried once"


def test_an_abort_leaves_the_blocks_until_the_transfer_ends() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.step()
    order = server.fetch()
    assert [delta.finish_reason for delta in server.scheduler.abort(["a"])] == [FinishReason.ABORT]
    assert not server.scheduler.has_work
    assert server.kv.num_used_blocks == 3
    server.policy.take_in([fetched(order)])
    assert server.kv.num_used_blocks == 0
    assert server.step() is None


def test_an_abort_behind_the_arrival() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.step()
    server.policy.take_in([fetched(server.fetch())])
    server.scheduler.abort(["a"])
    assert server.step() is None
    assert server.kv.num_used_blocks == 0


def test_an_abort_in_the_queue_lets_the_other_server_know() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.scheduler.abort(["a"])
    assert server.fetch().block_ids == []


def test_every_rank_must_have_fetched() -> None:
    server = Server(num_ranks=2)
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.step()
    order = server.fetch()
    server.policy.take_in([fetched(order)])
    assert server.step() is None
    server.policy.take_in([fetched(order, error="One rank of two.")])
    server.step()
    assert server.end_of("a").error == "One rank of two."
    assert server.kv.num_used_blocks == 0


def test_fetching_counts_against_the_rows() -> None:
    server = Server(max_num_seqs=1)
    server.add("a", 10, KVTransfer(source=SOURCE))
    server.add("b", 10, None, first=20)
    assert server.step() is None
    assert server.step() is None
    server.policy.take_in([fetched(server.fetch())])
    assert amounts(server.step()) == [1]
    assert amounts(server.step()) == [10]


def test_a_request_gives_way_to_blocks_that_a_transfer_holds() -> None:
    server = Server(num_blocks=4)
    server.add("kept", 8, KVTransfer(keeps=True))
    server.step()
    server.add("a", 7, None, max_tokens=4, first=30)
    while server.step() is not None:
        pass
    assert server.scheduler.stats().num_waiting == 1, "two blocks are left, and it needs three"
    server.now = 101.0
    server.policy.take_in([])
    while server.step() is not None:
        pass
    assert server.end_of("a").finish_reason is FinishReason.LENGTH


def kept(server: Server) -> tuple[KVSource, Offer]:
    server.add("a", 10, KVTransfer(keeps=True))
    server.step()
    source = server.end_of("a").kv_source
    [offer] = server.orders()
    assert source is not None
    assert isinstance(offer, Offer)
    return source, offer


def test_a_prompt_is_kept_until_it_is_sent() -> None:
    server = Server(num_ranks=2)
    source, offer = kept(server)
    assert (source.token, list(source.block_ids), source.num_ranks) == (offer.token, offer.block_ids, 2)
    assert (source.engine_id, source.host, source.port) == ("me", "localhost", 5600)
    assert server.kv.num_used_blocks == 3
    assert server.policy.take_in([Sent(offer.token)])
    assert server.kv.num_used_blocks == 3
    server.policy.take_in([Sent(offer.token)])
    assert server.kv.num_used_blocks == 0
    server.policy.take_in([Sent(offer.token)])
    assert server.kv.num_used_blocks == 0


def test_a_prompt_whose_reader_is_lost_is_let_go_of_by_all_ranks() -> None:
    server = Server(num_ranks=2)
    _, offer = kept(server)
    server.policy.take_in([Sent(offer.token, is_lost=True)])
    assert server.orders() == [Withdraw(offer.token)]
    assert server.kv.num_used_blocks == 0


def test_a_prompt_that_nobody_fetches_is_let_go_of() -> None:
    server = Server()
    _, offer = kept(server)
    server.now = 99.0
    assert not server.policy.take_in([])
    server.now = 100.0
    assert server.policy.take_in([])
    assert server.orders() == [Withdraw(offer.token)]
    assert server.kv.num_used_blocks == 0
    assert server.policy.take_stats().num_expired == 1
    server.policy.take_in([Sent(offer.token)])


def keep(server: Server, name: str, num_tokens: int, first: int = 0) -> str:
    server.add(name, num_tokens, KVTransfer(keeps=True), first=first)
    while server.step() is not None:
        pass
    source = server.end_of(name).kv_source
    assert source is not None
    return source.token


def test_prompts_that_nobody_fetches_hold_half_of_the_cache_at_most(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(num_blocks=16)
    first, second = keep(server, "a", 16), keep(server, "b", 16, first=100)
    assert server.kv.num_used_blocks == 8
    server.orders()
    keep(server, "c", 4, first=200)
    assert Withdraw(first) in server.orders()
    assert server.kv.num_used_blocks == 5
    assert server.policy.take_stats().num_expired == 1
    server.policy.take_in([Claimed(second)])
    keep(server, "d", 28, first=300)
    assert server.orders()[1:] == [], "what is being read counts no more, and goes for nobody"
    assert server.kv.num_used_blocks == 12
    keep(server, "e", 4, first=300)
    assert server.kv.num_used_blocks == 12, "the blocks of a common beginning count once"
    assert [record.levelname for record in caplog.records] == ["WARNING"], "one line a minute"


def test_a_prompt_larger_than_that_is_kept_alone() -> None:
    server = Server(num_blocks=16)
    keep(server, "a", 4)
    keep(server, "large", 40, first=100)
    assert (server.kv.num_used_blocks, server.policy.take_stats().num_kept) == (10, 1)
    keep(server, "b", 4, first=200)
    assert (server.kv.num_used_blocks, server.policy.take_stats().num_kept) == (1, 1)


ANNOUNCES = KVTransfer(keeps=True, announces=True)


def test_an_announced_prompt_is_offered_as_it_is_computed() -> None:
    server = Server()
    server.add("a", 42, ANNOUNCES)
    server.scheduler.schedule()
    [(request_id, source)] = server.policy.take_announced()
    offer, computing = server.orders()
    assert offer == Offer(source.token, offer.digest, [], is_whole=False)  # type: ignore[union-attr]
    assert isinstance(computing, Computing)
    assert (computing.first, len(computing.block_ids)) == (0, 8)
    assert (request_id, source.port, server.policy.take_announced()) == ("a", 5600, [])
    server.scheduler.update(BatchPlan([], [ScheduledRow("a", 32, [])], []), BatchResult([RowResult([])]))
    [more] = server.orders()
    assert isinstance(more, MoreOffered)
    assert (more.block_ids, more.is_whole) == (computing.block_ids, False)
    server.now = 1000.0
    assert not server.policy.take_in([]), "it lasts as long as its request"
    server.step()
    rest, full, last = server.orders()
    assert rest == Computing(source.token, 8, [*full.block_ids, *last.block_ids])  # type: ignore[union-attr]
    assert isinstance(full, MoreOffered)
    assert isinstance(last, MoreOffered)
    assert (len(full.block_ids), full.is_whole, len(last.block_ids), last.is_whole) == (2, False, 1, True)
    block_ids = (*more.block_ids, *full.block_ids, *last.block_ids)
    assert server.end_of("a").kv_source == msgspec.structs.replace(source, block_ids=block_ids)
    assert server.kv.num_used_blocks == 11
    server.policy.take_in([Sent(source.token)])
    assert server.kv.num_used_blocks == 0


@pytest.mark.parametrize("is_claimed", [False, True])
def test_an_announced_prompt_whose_reader_does_not_come_is_let_go_of_soon(is_claimed: bool) -> None:
    server = Server()
    server.add("a", 10, ANNOUNCES)
    server.step()
    [(_, source)] = server.policy.take_announced()
    if is_claimed:
        server.policy.take_in([Claimed(source.token)])
    server.now = 16.0
    server.policy.take_in([])
    assert server.kv.num_used_blocks == (3 if is_claimed else 0)
    server.now = 101.0
    server.policy.take_in([])
    assert server.kv.num_used_blocks == 0


def test_what_the_cache_has_is_offered_before_the_first_step() -> None:
    server = Server()
    server.add("a", 17, None)
    server.step()
    server.add("b", 20, ANNOUNCES)
    server.scheduler.schedule()
    _, more, computing = server.orders()
    assert isinstance(computing, Computing)
    assert computing.first == 4
    assert isinstance(more, MoreOffered)
    assert len(more.block_ids) == 4


def test_an_announced_prompt_that_is_aborted_is_withdrawn() -> None:
    server = Server()
    server.add("a", 42, ANNOUNCES)
    server.scheduler.schedule()
    [(_, source)] = server.policy.take_announced()
    server.orders()
    server.scheduler.abort(["a"])
    assert server.orders() == [Withdraw(source.token)]
    assert not server.policy.has_leases


def test_a_reader_may_be_done_or_lost_before_the_prompt_is_whole() -> None:
    for is_lost in (False, True):
        server = Server()
        server.add("a", 42, ANNOUNCES)
        plan = server.scheduler.schedule()
        [(_, source)] = server.policy.take_announced()
        server.policy.take_in([Sent(source.token, is_lost)])
        assert plan is not None
        server.scheduler.update(plan, BatchResult([RowResult([])]))
        server.step()
        assert server.end_of("a").kv_source is None, "it had its one reader"
        assert server.kv.num_used_blocks == 0
        assert server.policy.take_announced() == []


def test_a_request_that_starts_over_has_nobody_wait_for_it() -> None:
    server = Server()
    server.add("a", 42, ANNOUNCES)
    server.scheduler.schedule()
    [(_, source)] = server.policy.take_announced()
    server.orders()
    server.scheduler.preempt_all()
    assert server.orders() == [Withdraw(source.token)]
    while server.step() is not None:
        assert server.policy.take_announced() == []
    assert server.kv.num_used_blocks == 0


@pytest.mark.parametrize("error", [None, "It is gone."])
def test_a_prompt_that_came_is_kept_for_the_next_server(error: str | None) -> None:
    server = Server(recomputes=True)
    server.add("a", 10, KVTransfer(keeps=True, source=SOURCE))
    server.step()
    server.policy.take_in([fetched(server.fetch(), error=error)])
    server.step()
    source = server.end_of("a").kv_source
    [offer] = server.orders()
    assert source is not None
    assert isinstance(offer, Offer)
    assert source.token == offer.token
    assert server.kv.num_used_blocks == 3
    server.policy.take_in([Sent(offer.token)])
    assert server.kv.num_used_blocks == 0


def test_an_aborted_request_keeps_nothing() -> None:
    server = Server()
    server.add("a", 10, KVTransfer(keeps=True))
    server.scheduler.abort(["a"])
    assert server.orders() == []
    assert not server.policy.has_leases


def test_tokens_are_no_secret_twice_and_digests_are_of_the_prompt_alone() -> None:
    one, other = Server(), Server()
    first, second = kept(one)[1], kept(other)[1]
    assert first.token != second.token
    assert first.digest == second.digest
    other.add("b", 9, KVTransfer(source=SOURCE))
    other.step()
    assert other.fetch().digest != first.digest
