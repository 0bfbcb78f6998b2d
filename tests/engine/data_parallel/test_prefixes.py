"""What is remembered of prompts' beginnings, and how much."""

from __future__ import annotations

from headway.server.engine.data_parallel.prefixes import BLOCK_TOKENS, PrefixMemory, prefix_names
from headway.server.types import GenerateRequest, SamplingParams


def names_of(token_ids: list[int], salt: str | None = None, adapter: int | None = None) -> list[bytes]:
    return prefix_names(GenerateRequest("r", token_ids, SamplingParams(), 0.0, cache_salt=salt, adapter_id=adapter))


def blocks(*firsts: int) -> list[int]:
    return [first for first in firsts for _ in range(BLOCK_TOKENS)]


def test_only_full_blocks_from_the_start_are_shared() -> None:
    memory = PrefixMemory([10_000, 10_000])
    memory.note(1, names_of(blocks(1, 2, 3)))
    assert memory.num_cached(names_of([*blocks(1, 2), 9])) == [0, 2 * BLOCK_TOKENS]
    assert memory.num_cached(names_of(blocks(1, 9, 3))) == [0, BLOCK_TOKENS]
    assert memory.num_cached(names_of(blocks(2, 3))) == [0, 0]
    assert memory.num_cached(names_of([1] * (BLOCK_TOKENS - 1))) == [0, 0]


def test_tenants_and_adapters_share_nothing() -> None:
    memory = PrefixMemory([10_000])
    memory.note(0, names_of(blocks(1, 2), salt="a", adapter=3))
    assert memory.num_cached(names_of(blocks(1, 2), salt="a", adapter=3)) == [2 * BLOCK_TOKENS]
    for other in (names_of(blocks(1, 2)), names_of(blocks(1, 2), salt="b", adapter=3), names_of(blocks(1, 2), salt="a", adapter=4)):
        assert memory.num_cached(other) == [0]


def test_it_remembers_no_more_than_the_cache_holds_and_beginnings_longest() -> None:
    memory = PrefixMemory([4 * BLOCK_TOKENS, 10_000])
    for engine in (0, 1):
        memory.note(engine, names_of(blocks(1, 2, 3)))
        memory.note(engine, names_of(blocks(4, 5, 6)))
    assert memory.num_cached(names_of(blocks(1, 2, 3))) == [BLOCK_TOKENS, 3 * BLOCK_TOKENS]
    assert memory.num_cached(names_of(blocks(4, 5, 6))) == [3 * BLOCK_TOKENS] * 2


def test_a_cache_smaller_than_a_block_and_a_reset() -> None:
    memory = PrefixMemory([BLOCK_TOKENS - 1, 10_000])
    for engine in (0, 1):
        memory.note(engine, names_of(blocks(1)))
    assert memory.num_cached(names_of(blocks(1))) == [0, BLOCK_TOKENS]
    memory.forget()
    assert memory.num_cached(names_of(blocks(1))) == [0, 0]


def test_a_long_prompt_costs_no_more_than_a_part_of_it() -> None:
    assert len(names_of([1] * 100_000)) == 64
