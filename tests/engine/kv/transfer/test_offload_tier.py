"""What a tier has, and what goes for what."""

from __future__ import annotations

from headway.server.engine.kv.transfer.offload.tier import Room, Tier


def filled(*names: bytes) -> Tier:
    tier = Tier(3)
    for name in names:
        tier.begin(name)
        assert tier.finish(name)
    return tier


def test_the_least_recently_used_one_goes_first() -> None:
    tier = filled(b"a", b"b", b"c")
    tier.touch([b"a", b"x"])
    room = tier.begin(b"d")
    assert room is not None
    assert (room.evicted, b"b" in tier, b"a" in tier) == (b"b", False, True)
    tier.check()


def test_of_a_prefix_the_end_goes_first() -> None:
    tier = filled(b"a", b"b", b"c")
    tier.touch([b"a", b"b", b"c"])
    assert [tier.begin(name) for name in (b"d", b"e")] == [Room(2, b"c"), Room(1, b"b")]


def test_what_is_coming_is_not_there_and_gives_no_room() -> None:
    tier = Tier(1)
    assert tier.begin(b"a") == Room(0, None)
    assert (tier.knows(b"a"), b"a" in tier, tier.usage) == (True, False, 1)
    assert tier.begin(b"b") is None
    assert tier.finish(b"a")
    assert tier.begin(b"b") == Room(0, b"a")
    tier.check()


def test_what_is_lost_or_dropped_while_it_comes_is_not_there() -> None:
    tier = Tier(2)
    tier.begin(b"a")
    assert not tier.finish(b"a", is_lost=True)
    tier.begin(b"b")
    assert not tier.drop(b"b")
    assert not tier.finish(b"b")
    assert (tier.usage, tier.knows(b"a"), tier.knows(b"b")) == (0, False, False)
    tier.begin(b"b")
    assert tier.finish(b"b"), "the next copy is wanted again"
    assert tier.drop(b"b")
    assert tier.usage == 0
    tier.check()
