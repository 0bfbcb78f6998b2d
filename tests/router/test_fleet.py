"""Which server is asked, and which is kept for the last."""

from __future__ import annotations

import pytest

from headway.server.router.fleet import Fleet
from headway.server.router.metrics import RouterMetrics
from headway.server.router.policies.round_robin import RoundRobin

A, B = "http://a", "http://b"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fleet_of(*urls: str) -> tuple[Fleet, RouterMetrics, Clock]:
    metrics, clock = RouterMetrics(), Clock()
    fleet = Fleet(RoundRobin(), metrics, clock=clock)
    fleet.update(urls)
    for server in fleet.servers:
        fleet.is_well(server)
    return fleet, metrics, clock


def test_a_resting_server_is_asked_only_if_there_is_no_other() -> None:
    fleet, _, clock = fleet_of(A, B)
    a, b = fleet.servers
    fleet.rest(a, "3")
    assert {fleet.choose(None) for _ in range(4)} == {b}
    assert fleet.choose(None, [b]) is a
    fleet.rest(b, None)
    assert fleet.choose(None) in (a, b)
    clock.now += 3.0
    assert {fleet.choose(None) for _ in range(4)} == {a, b}


def test_whatever_changes_counts_for_the_next_request() -> None:
    """The servers that can be asked are remembered from one request to the next."""
    fleet, _, clock = fleet_of(A, B)
    a, b = fleet.servers
    assert {fleet.choose(None) for _ in range(2)} == {a, b}
    fleet.broke(a, "it broke off")
    assert {fleet.choose(None) for _ in range(2)} == {a, b}
    for _ in range(2):
        fleet.broke(a, "it broke off")
    assert {fleet.choose(None) for _ in range(2)} == {b}
    fleet.is_well(a)
    assert {fleet.choose(None) for _ in range(2)} == {a, b}
    fleet.rest(b, "2")
    assert {fleet.choose(None) for _ in range(2)} == {a}
    clock.now += 2.0
    assert {fleet.choose(None) for _ in range(2)} == {a, b}
    fleet.update([B])
    assert {fleet.choose(None) for _ in range(2)} == {b}
    fleet.refused(b, "it takes no connection")
    assert fleet.choose(None) is None


@pytest.mark.parametrize("asked", ["1e9", "99999", "Wed, 21 Oct 2099 07:28:00 GMT", "-5"])
def test_no_server_is_let_off_for_long(asked: str) -> None:
    fleet, _, clock = fleet_of(A, B)
    fleet.rest(fleet.servers[0], asked)
    clock.now += 31.0
    assert {fleet.choose(None) for _ in range(4)} == set(fleet.servers)


def test_an_ejected_server_is_not_asked_at_all() -> None:
    fleet, metrics, _ = fleet_of(A, B)
    a, b = fleet.servers
    fleet.refused(a, "it takes no connection")
    assert fleet.choose(None) is b
    assert fleet.choose(None, [b]) is None
    assert b'headway:router_ejections_total{server="http://a"} 1.0' in metrics.render()
    assert b'headway:router_server_healthy{server="http://a"} 0.0' in metrics.render()


def test_servers_that_stay_keep_their_state_and_those_that_go_leave_no_series() -> None:
    fleet, metrics, _ = fleet_of(A, B)
    a = fleet.servers[0]
    metrics.count_answer(B, 200)
    metrics.count_retry(B, "503")
    fleet.update(["http://c", A])
    assert fleet.servers[1] is a
    assert not fleet.servers[0].health.is_healthy, "it has not been asked yet"
    assert B.encode() not in metrics.render()
    metrics.count_answer(B, 200)  # what was open there goes on to its end
    assert B.encode() not in metrics.render()


def test_why_no_server_is_there_stands_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    fleet, _, _ = fleet_of("http://internal:1")
    fleet.refused(fleet.servers[0], "it takes no connection")
    caplog.clear()
    told = [str(fleet.none_available()) for _ in range(3)]
    assert told == ["None of the servers behind this router takes requests now; try again soon."] * 3
    assert caplog.text.count("http://internal:1: it takes no connection") == 1
