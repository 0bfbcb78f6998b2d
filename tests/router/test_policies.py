"""Each policy alone: what it chooses, and what it never does."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.server.router.config import RoutingConfig
from headway.server.router.load_report import LoadReport
from headway.server.router.policies.choice import POLICIES
from headway.server.router.policies.least_load import FRESH_S, LeastLoad, load_of
from headway.server.router.policies.prefix import BOUND, PrefixHash, bound_of
from headway.server.router.policies.ring import Ring
from headway.server.router.policies.round_robin import RoundRobin
from headway.server.router.servers import Server

NOW = 1000.0
loads = st.lists(st.integers(0, 50), min_size=1, max_size=12)


def servers_with(opens: list[int]) -> tuple[Server, ...]:
    return tuple(Server(f"http://s{number}:80", num_open=num_open) for number, num_open in enumerate(opens))


def urls_of(servers: tuple[Server, ...]) -> list[str]:
    return [server.url for server in servers]


@pytest.mark.parametrize("name", POLICIES)
@given(opens=loads, key=st.none() | st.binary(max_size=20), data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_policy_chooses_among_the_candidates(name: str, opens: list[int], key: bytes | None, data: st.DataObject) -> None:
    servers = servers_with(opens)
    policy = POLICIES[name]()
    policy.update(urls_of(servers))
    candidates = data.draw(st.lists(st.sampled_from(servers), min_size=1, unique=True))
    assert policy.choose(tuple(candidates), key, NOW) in candidates


def test_the_names_are_those_of_the_option() -> None:
    for name in POLICIES:
        assert RoutingConfig(policy=name).policy == name  # type: ignore[arg-type]


@given(st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_round_robin_gives_each_its_turn(num_servers: int, num_rounds: int) -> None:
    servers, policy = servers_with([0] * num_servers), RoundRobin()
    policy.update(urls_of(servers))
    chosen = Counter(policy.choose(servers, None, NOW).url for _ in range(num_servers * num_rounds))
    assert set(chosen.values()) == {num_rounds}


def test_a_server_that_comes_changes_nobody_elses_turn() -> None:
    policy, servers = RoundRobin(), servers_with([0, 0, 0])
    policy.update(urls_of(servers[:2]))
    assert policy.choose(servers[:2], None, NOW) is servers[0]
    policy.update(urls_of(servers))
    assert {policy.choose(servers, None, NOW).url for _ in range(2)} == {"http://s1:80", "http://s2:80"}


@given(loads, st.data())
@settings(max_examples=100, deadline=None)
def test_least_load_takes_the_least(opens: list[int], data: st.DataObject) -> None:
    servers = servers_with(opens)
    assert LeastLoad().choose(servers, None, NOW).num_open == min(opens)
    for server in servers:
        if (num_waiting := data.draw(st.none() | st.integers(0, 9))) is not None:
            server.report = LoadReport(num_waiting, data.draw(st.sampled_from([0.1, 0.9])), NOW)
    assert load_of(LeastLoad().choose(servers, None, NOW), NOW) == min(load_of(server, NOW) for server in servers)


def test_what_a_server_reports_counts_while_it_is_fresh() -> None:
    servers = servers_with([1, 2])
    servers[0].report = LoadReport(num_waiting=5, kv_usage=0.1, at=NOW)
    assert LeastLoad().choose(servers, None, NOW) is servers[1]
    assert LeastLoad().choose(servers, None, NOW + FRESH_S + 0.1) is servers[0]


def test_the_fuller_cache_decides_between_equals_and_then_turns() -> None:
    servers = servers_with([3, 3, 3])
    for server, usage in zip(servers, (0.9, 0.21, 0.19), strict=True):
        server.report = LoadReport(0, usage, NOW)
    policy = LeastLoad()
    assert {policy.choose(servers, None, NOW).url for _ in range(2)} == {"http://s1:80", "http://s2:80"}


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=30, unique=True), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_server_that_goes_moves_its_own_keys_only(keys: list[bytes], num_servers: int) -> None:
    urls = [f"http://s{number}:80" for number in range(num_servers + 1)]
    whole, smaller = Ring(urls), Ring(urls[:-1])
    for key in keys:
        order = list(whole.from_key(key))
        assert sorted(order) == sorted(urls)
        assert list(smaller.from_key(key)) == [url for url in order if url != urls[-1]]


def test_shares_of_the_ring_are_near_the_mean() -> None:
    ring = Ring([f"http://10.0.0.{number}:8080" for number in range(10)])
    shares = Counter(next(ring.from_key(b"key %d" % number)) for number in range(20_000))
    assert len(shares) == 10
    assert max(shares.values()) < 1.35 * 2000


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=200), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_no_server_gets_more_than_its_bound(keys: list[bytes], num_servers: int) -> None:
    servers, policy = servers_with([0] * num_servers), PrefixHash()
    policy.update(urls_of(servers))
    for key in keys:
        most = bound_of(servers)
        server = policy.choose(servers, key, NOW)
        server.num_open += 1
        assert server.num_open <= most
    total = sum(server.num_open for server in servers)
    assert total == len(keys)
    assert max(server.num_open for server in servers) <= BOUND * total / num_servers + 1


def test_requests_that_begin_alike_meet_at_one_server_until_it_has_its_share() -> None:
    servers, policy = servers_with([0] * 4), PrefixHash()
    policy.update(urls_of(servers))
    first = policy.choose(servers, b"alike", NOW)
    assert all(policy.choose(servers, b"alike", NOW) is first for _ in range(10))
    without = tuple(server for server in servers if server is not first)
    second = policy.choose(without, b"alike", NOW)
    first.num_open = 10
    assert policy.choose(servers, b"alike", NOW) is second, "busy and gone are the same to a key"


def test_a_request_without_a_key_goes_where_there_is_the_least_to_do() -> None:
    servers, policy = servers_with([2, 1, 3]), PrefixHash()
    policy.update(urls_of(servers))
    assert policy.choose(servers, None, NOW) is servers[1]
