"""A rank on another host as the engine has it."""

from __future__ import annotations

import io
import socket
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import msgspec

from headway.server.config.server import ServerConfig
from headway.server.distributed.meeting import NetworkMeeting
from headway.server.engine.executor.over_ray.rank import RayRank
from headway.server.engine.executor.rank_messages import Hello, Here, Moved, RankArguments, Seat, encode
from headway.server.engine.executor.secure_link import make_credentials, reach, welcome
from headway.server.engine.kv.transfer.orders import Sent, Settled
from headway.server.source.files import ModelFiles

PATIENCE_S = 60.0


class Actor:
    """A RankHost's, of a rank that prints nothing."""

    @property
    def run(self) -> Actor:
        return self

    def options(self, **_: Any) -> Actor:
        return self

    def remote(self, _: RankArguments) -> list[Any]:
        return []


def test_what_it_says_is_heard(tmp_path: Path) -> None:
    """A rank may say that it is ready before anybody has read that it came: of a link that has been read empty nothing tells any more.
    Then, what its worker of the KV connector has done."""
    credentials = make_credentials()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address: tuple[str, int] = server.getsockname()[:2]
        reached = pool.submit(reach, address, credentials, PATIENCE_S)
        here = welcome(server.accept()[0], credentials.context(is_server=True), PATIENCE_S)
        there = reached.result(PATIENCE_S)
    there.send_bytes(msgspec.msgpack.encode(Hello(1, 1001)))
    there.send_bytes(encode(Here()))
    hello = msgspec.msgpack.decode(here.recv_bytes(), type=Hello)

    config = ServerConfig.model_validate({"model": {"model": "m"}})
    seat = Seat(NetworkMeeting("127.0.0.1", 1, "key", "10.0.0.7"), address, credentials, 0, is_elsewhere=True)
    arguments = RankArguments(config, ModelFiles("safetensors", tmp_path, None, "m"), 0, 1, tmp_path, seat)
    rank = RayRank(Actor(), arguments, io.StringIO())
    rank.reached(here, hello)
    while rank.answers.empty():
        assert wait([rank.link], PATIENCE_S), "nothing tells of the second message"
        assert rank.listen()
    assert rank.answers.get() == Here()
    there.send_bytes(encode(Moved([Sent("token"), Settled(1)])))
    while rank.reports.qsize() < 2:
        assert wait([rank.link], PATIENCE_S), "nothing tells of what it has moved"
        assert rank.listen()
    assert [rank.reports.get(), rank.reports.get()] == [Sent("token"), Settled(1)]
    assert rank.host == "10.0.0.7"
    assert rank.pid == 1001
    here.close()
    there.close()
