"""The pool of blocks: counts, eviction order, and that misuse is noticed."""

from __future__ import annotations

import pytest

from headway.server.engine.kv.block_pool import BlockPool


def content(number: int) -> bytes:
    return bytes([number]) * 32


def filled_pool(num_blocks: int) -> BlockPool:
    """All blocks were held by one sequence, in order, have content and are free now."""
    pool = BlockPool(num_blocks)
    blocks = pool.allocate(num_blocks)
    for number, block_id in enumerate(blocks):
        pool.publish(block_id, content(number))
    pool.release(blocks)
    return pool


def test_free_blocks_keep_their_content_until_they_are_given_out() -> None:
    pool = filled_pool(4)
    assert pool.num_free == pool.num_cached == 4
    pool.allocate(1)
    assert pool.num_cached == 3
    pool.check([[3]])


def test_the_last_block_of_a_sequence_goes_first() -> None:
    pool = filled_pool(4)
    assert pool.allocate(4) == [3, 2, 1, 0]


def test_the_longest_unused_goes_first() -> None:
    pool = BlockPool(6)
    old, new = pool.allocate(3), pool.allocate(3)
    for number, block_id in enumerate(old + new):
        pool.publish(block_id, content(number))
    pool.release(old)
    pool.release(new)
    pool.hold(old)  # used again: now the newest
    pool.release(old)
    assert pool.allocate(6) == [*reversed(new), *reversed(old)]


def test_blocks_without_content_go_before_any_with_content() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2), pool.allocate(2)
    for number, block_id in enumerate(first):
        pool.publish(block_id, content(number))
    pool.release(first)
    pool.release(second)
    assert set(pool.allocate(2)) == set(second)
    assert pool.num_cached == 2


def test_a_shared_block_is_free_when_its_last_holder_goes() -> None:
    pool = filled_pool(3)
    pool.hold([0, 1])
    pool.hold([0])
    pool.check([[0, 1], [0]])
    pool.release([0, 1])
    assert pool.num_free == 2
    pool.check([[0]])
    pool.release([0])
    assert pool.num_free == 3
    assert pool.find(content(0)) == 0
    pool.check([])


def test_equal_content_is_published_once() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    for block_id in blocks:
        pool.publish(block_id, content(7))
    assert pool.find(content(7)) == blocks[0]
    pool.release(blocks)
    pool.check([])
    assert pool.allocate(1) == [blocks[1]], "the double has nothing to keep"


def test_forgetting() -> None:
    pool = filled_pool(3)
    pool.hold([0, 1])
    pool.forget([0])
    assert pool.find(content(0)) is None
    assert pool.find(content(1)) == 1
    pool.forget_all()
    assert pool.num_cached == 0
    pool.check([[0, 1]])


def test_freeing_twice_is_noticed() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.release(blocks)


@pytest.mark.parametrize(
    ("holders", "message"),
    [
        ([], "counts 1 holders and has 0"),
        ([[0], [0]], "counts 1 holders and has 2"),
        ([[0, 0]], "has a block twice"),
        ([[1]], "counts 1 holders and has 0"),
    ],
)
def test_check_finds_wrong_counts(holders: list[list[int]], message: str) -> None:
    pool = BlockPool(3)
    assert pool.allocate(1) == [0]
    with pytest.raises(AssertionError, match=message):
        pool.check(holders)
