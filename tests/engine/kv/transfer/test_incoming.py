"""Blocks that are filled for requests: who hears of them, and how long they are held."""

from __future__ import annotations

from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.connector import Arrival
from headway.server.engine.kv.transfer.incoming import Ended, Incoming
from headway.server.engine.request import Request
from headway.server.types import GenerateRequest, SamplingParams


def _begun(num_ranks: int) -> tuple[KVCacheManager, Incoming, Request]:
    kv = KVCacheManager(4, 4, enable_prefix_caching=False)
    request = Request.of(GenerateRequest("a", [1] * 8, SamplingParams(), arrival_time=0.0), 0)
    block_ids = kv.allocate(request, 8)
    assert block_ids is not None
    incoming = Incoming(kv, num_ranks)
    incoming.begin(7, request, block_ids, 8)
    kv.free(request)
    return kv, incoming, request


def test_a_request_hears_once_and_when_all_ranks_are_done() -> None:
    _, incoming, request = _begun(2)
    assert incoming.rank_done(7, "lost") is None
    assert incoming.is_fetching
    assert incoming.rank_done(7, None) == Ended(0, is_failed=True)
    assert incoming.take_arrivals() == [Arrival(request, 8, "lost")]
    assert incoming.take_arrivals() == []
    assert not incoming.is_fetching


def test_blocks_of_a_request_that_has_ended_are_held_until_no_rank_writes_them() -> None:
    kv, incoming, request = _begun(2)
    incoming.forget(request)
    assert not incoming.is_fetching
    incoming.check()
    assert [incoming.rank_done(7, None), incoming.rank_done(7, None)] == [None, Ended(0, is_failed=False)]
    assert incoming.take_arrivals() == []
    free = kv.num_free_blocks
    incoming.rank_settled(7)
    assert kv.num_free_blocks == free
    incoming.rank_settled(7)
    assert kv.num_free_blocks == free + 2
    assert not incoming.has_leases
