"""Whose draws differ, and whose are the same."""

from __future__ import annotations

from headway.server.engine.randomness import KeySource


def keys(engine: int) -> list[int]:
    source = KeySource(7, engine)
    return [source.key(None) for _ in range(1000)]


def test_engines_with_one_seed_never_share_a_key() -> None:
    """Else the same prompt twice, on two engines, would have the same answer at any temperature."""
    all_keys = [key for engine in range(64) for key in keys(engine)]
    assert len(set(all_keys)) == len(all_keys)
    assert keys(3) == keys(3)
    assert max(all_keys) < 1 << 128


def test_a_request_s_own_seed_is_the_same_everywhere() -> None:
    assert KeySource(7, 0).key(5) == KeySource(8, 1).key(5)
