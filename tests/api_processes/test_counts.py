"""The table of counts: each process writes its own row, and sums are everybody's."""

from __future__ import annotations

from pathlib import Path

from headway.server.counts import Count, Counts


def test_one_process_needs_no_file() -> None:
    counts = Counts.alone()
    counts.add(Count.HELD, 2)
    counts.add(Count.HELD, -1)
    assert counts.total(Count.HELD) == 1
    assert counts.is_leader
    assert counts.are_open


def test_rows_add_up_across_views(tmp_path: Path) -> None:
    leader = Counts.create(tmp_path, 3)
    follower = Counts.join(tmp_path, 2)
    leader.add(Count.OPEN_REQUESTS, 3)
    follower.add(Count.OPEN_REQUESTS, 4)
    follower.set(Count.HELD, 1)
    assert [view.total(Count.OPEN_REQUESTS) for view in (leader, follower)] == [7, 7]
    assert leader.of(2, Count.HELD) == 1
    assert leader.total(Count.HELD) == 1
    assert len(leader.pids()) == 2  # the third has not begun
    assert not follower.is_leader


def test_a_process_that_ended_leaves_its_totals(tmp_path: Path) -> None:
    leader = Counts.create(tmp_path, 2)
    follower = Counts.join(tmp_path, 1)
    follower.add(Count.GENERATED_TOKENS, 100)
    follower.add(Count.OPEN_REQUESTS, 5)
    leader.retire(1)
    assert leader.total(Count.OPEN_REQUESTS) == 0
    assert leader.total(Count.GENERATED_TOKENS) == 100
    another = Counts.join(tmp_path, 1)
    another.add(Count.GENERATED_TOKENS, 1)
    assert leader.total(Count.GENERATED_TOKENS) == 101


def test_the_leader_opens_for_all(tmp_path: Path) -> None:
    leader = Counts.create(tmp_path, 2)
    follower = Counts.join(tmp_path, 1)
    assert not follower.are_open
    leader.set(Count.HAS_OPENED, 1)
    assert follower.are_open
