"""Restarts come later and later, and end."""

from __future__ import annotations

from headway.server.siblings.restarts import MAX_RESTARTS, WITHIN_S, Restarts


def test_delays_double_until_there_are_too_many() -> None:
    restarts = Restarts(now=lambda: 5.0)
    delays = [restarts.next_delay_s() for _ in range(MAX_RESTARTS + 2)]
    assert delays == [1.0, 2.0, 4.0, None, None]


def test_old_ones_are_forgotten() -> None:
    now = 0.0
    restarts = Restarts(now=lambda: now)
    for _ in range(MAX_RESTARTS):
        assert restarts.next_delay_s() is not None
    now = WITHIN_S + 1
    assert restarts.next_delay_s() == 1.0
