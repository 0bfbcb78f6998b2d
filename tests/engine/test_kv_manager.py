"""Who gets which blocks, and what may be shared."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.prefix import block_hash, extend_hashes, root_hash
from headway.server.engine.request import Request
from headway.server.types import GenerateRequest, SamplingParams


def make_request(request_id: str, tokens: list[int], cache_salt: str | None = None, **sampling: Any) -> Request:
    return Request.of(GenerateRequest(request_id, tokens, SamplingParams(**sampling), 0.0, 0, cache_salt))


def compute(kv: KVCacheManager, request: Request, num_tokens: int | None = None) -> list[int]:
    """Admits a request, computes its tokens, or so many, and publishes them. Returns all of its blocks."""
    prefix = kv.find_prefix(request)
    block_ids = kv.allocate(request, request.num_tokens, prefix)
    assert block_ids is not None
    request.num_computed_tokens = request.num_tokens if num_tokens is None else num_tokens
    kv.publish(request)
    kv.check()
    return block_ids


def test_blocks_come_as_tokens_need_them() -> None:
    kv = KVCacheManager(4, 4, True)
    request = make_request("a", [1, 2, 3])
    assert kv.allocate(request, 3) == [0]
    assert kv.allocate(request, 4) == []
    assert kv.allocate(request, 5) == [1]
    assert kv.block_ids(request) == [0, 1]
    assert (kv.num_used_blocks, kv.num_free_blocks, kv.capacity) == (2, 2, 16)
    kv.free(request)
    assert kv.num_used_blocks == 0
    kv.free(request)  # nothing held: no error
    kv.check()


def test_all_or_nothing() -> None:
    kv = KVCacheManager(4, 4, True)
    request = make_request("a", [1])
    assert kv.allocate(request, 17) is None
    assert kv.num_used_blocks == 0
    assert kv.allocate(request, 12, num_spare=2) is None
    assert kv.allocate(request, 8, num_spare=2) == [0, 1]
    assert kv.allocate(request, 17) is None
    assert kv.block_ids(request) == [0, 1]
    kv.check()


@pytest.mark.parametrize(("num_tokens", "num_hits"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (13, 8)])
def test_a_prefix_is_found_but_never_all_tokens(num_tokens: int, num_hits: int) -> None:
    kv = KVCacheManager(8, 4, True)
    tokens = list(range(20))
    first = compute(kv, make_request("a", tokens[:9]))
    other = make_request("b", tokens[:num_tokens])
    prefix = kv.find_prefix(other)
    assert prefix.num_tokens == num_hits
    assert compute(kv, other)[: len(prefix.block_ids)] == first[: num_hits // 4]


def test_only_computed_full_blocks_are_shared() -> None:
    kv = KVCacheManager(8, 4, True)
    tokens = list(range(12))
    compute(kv, make_request("a", tokens), num_tokens=7)
    assert kv.find_prefix(make_request("b", tokens)).num_tokens == 4


def test_generated_tokens_are_shared_too() -> None:
    kv = KVCacheManager(8, 4, True)
    request = make_request("a", [1, 2, 3])
    compute(kv, request)
    request.token_ids += [4, 5, 6]
    kv.allocate(request, 6)
    request.num_computed_tokens = 5
    kv.publish(request)
    assert kv.find_prefix(make_request("b", [1, 2, 3, 4, 5])).num_tokens == 4


def test_a_hit_is_not_evicted_by_its_own_allocation() -> None:
    kv = KVCacheManager(3, 4, True)
    compute(kv, make := make_request("a", list(range(8))))
    kv.free(make)
    again = make_request("b", [*range(8), 9])
    prefix = kv.find_prefix(again)
    assert prefix.block_ids == [0, 1]
    assert kv.allocate(again, 9, prefix) == [0, 1, 2]
    kv.check()


def test_hits_that_nobody_holds_count_as_taken() -> None:
    kv = KVCacheManager(3, 4, True)
    compute(kv, request := make_request("a", list(range(8))))
    kv.free(request)
    long = make_request("b", list(range(16)))
    assert kv.allocate(long, 16, kv.find_prefix(long)) is None
    assert kv.num_used_blocks == 0
    kv.check()


def test_salts_separate_tenants() -> None:
    kv = KVCacheManager(16, 4, True)
    tokens = list(range(9))
    compute(kv, make_request("a", tokens, cache_salt="x"))
    found = {salt: kv.find_prefix(make_request("b", tokens, cache_salt=salt)).num_tokens for salt in ("x", "y", "", None)}
    assert found == {"x": 8, "y": 0, "": 0, None: 0}


def test_prompt_logprobs_need_the_whole_prompt_computed_once() -> None:
    kv = KVCacheManager(16, 4, True)
    compute(kv, make_request("a", list(range(9))))
    scored = make_request("b", list(range(9)), prompt_logprobs=1)
    assert kv.find_prefix(scored).num_tokens == 0
    scored.has_answered = True
    assert kv.find_prefix(scored).num_tokens == 8


def test_without_prefix_caching_nothing_is_found_or_counted() -> None:
    kv = KVCacheManager(16, 4, False)
    compute(kv, make_request("a", list(range(9))))
    request = make_request("b", list(range(9)))
    prefix = kv.find_prefix(request)
    kv.count_lookup(request, prefix)
    assert (prefix.num_tokens, kv.num_queried_tokens, kv.num_hit_tokens) == (0, 0, 0)


def test_hits_are_counted_in_tokens() -> None:
    kv = KVCacheManager(16, 4, True)
    for request_id in "ab":
        request = make_request(request_id, list(range(9)))
        kv.count_lookup(request, kv.find_prefix(request))
        compute(kv, request)
    assert (kv.num_queried_tokens, kv.num_hit_tokens) == (18, 8)


def test_reset_forgets_also_what_running_requests_hold() -> None:
    kv = KVCacheManager(16, 4, True)
    running = make_request("a", list(range(12)))
    compute(kv, running, num_tokens=3)
    kv.reset_prefix_cache()
    running.num_computed_tokens = 12
    kv.publish(running)
    assert kv.find_prefix(make_request("b", list(range(12)))).num_tokens == 0
    kv.free(running)
    compute(kv, running)
    assert kv.find_prefix(make_request("b", list(range(12)))).num_tokens == 8


def test_what_a_broken_request_held_is_not_shared() -> None:
    kv = KVCacheManager(16, 4, True)
    broken = make_request("a", list(range(12)))
    compute(kv, broken)
    kv.free(broken, is_broken=True)
    assert kv.find_prefix(make_request("b", list(range(12)))).num_tokens == 0
    kv.check()


def test_hashes_name_all_tokens_up_to_the_end_of_the_block() -> None:
    hashes: list[bytes] = []
    extend_hashes(hashes, 2, [1, 2, 3, 4, 5], 2, None)
    assert hashes == [block_hash(root_hash(None), [1, 2]), block_hash(block_hash(root_hash(None), [1, 2]), [3, 4])]
    assert len({*hashes, block_hash(root_hash(None), [3, 4]), block_hash(root_hash(""), [1, 2]), block_hash(root_hash("a"), [1, 2])}) == 5
    before = list(hashes)
    extend_hashes(hashes, 2, [9] * 5, 2, None)
    assert hashes == before, "a hash is computed once"
