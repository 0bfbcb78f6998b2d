"""Who is let in to the engine from elsewhere."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from headway.server.engine.executor.over_ray.door import Door
from headway.server.engine.executor.rank_messages import Hello
from headway.server.engine.executor.secure_link import SecureLink, make_credentials, reach
from headway.server.errors import RankDied

PATIENCE_S = 60.0


def come(door: Door, rank: int) -> SecureLink:
    link = reach(door.address, door.credentials, PATIENCE_S)
    link.send_bytes(msgspec.msgpack.encode(Hello(rank, 1000 + rank)))
    return link


def test_ranks_come_in_any_order_whoever_else_knocks() -> None:
    """One stranger says nothing, one has another start's certificate."""
    door = Door("127.0.0.1")
    with socket.create_connection(door.address) as silent, ThreadPoolExecutor(4) as pool:
        admitted = pool.submit(door.admit, {1, 2}, lambda: None)
        stranger = pool.submit(reach, door.address, make_credentials(), PATIENCE_S)
        links = [come(door, rank) for rank in (2, 1)]
        with pytest.raises(OSError, match=r"(?i)certificate verify failed"):
            stranger.result(PATIENCE_S)
        silent.close()
        found = admitted.result(PATIENCE_S)
    assert {rank: hello.pid for rank, (_, hello) in found.items()} == {1: 1001, 2: 1002}
    with pytest.raises(OSError, match="refused"):
        reach(door.address, door.credentials, PATIENCE_S)
    for link in [*links, *(link for link, _ in found.values())]:
        link.close()


def test_what_keeps_a_rank_from_coming_ends_the_wait() -> None:
    def check() -> None:
        raise RankDied("rank 1 on 10.0.0.2 exited with status 1")

    door = Door("127.0.0.1")
    with pytest.raises(RankDied, match="exited with status 1"):
        door.admit({1}, check)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(door.address)
