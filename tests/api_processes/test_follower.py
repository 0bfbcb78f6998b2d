"""An API process beside the leader is told the engine's end twice: by the engine itself, and by the leader."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from headway.server.api.http_server import HttpServer
from headway.server.api_processes.arguments import FollowerArguments
from headway.server.api_processes.follower import _Follower
from headway.server.api_processes.orders import EngineEnded
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.engine.links import EngineLinks
from headway.server.engine.messages import Died
from headway.server.siblings.orders import End, OrderSender

NO_SERVER = cast(HttpServer, None)  # only a drain concerns it


def test_the_engine_s_last_words_go_before_what_the_leader_tells(tmp_path: Path) -> None:
    Counts.create(tmp_path, 2)

    async def dead_cause() -> str | None:
        follower = _Follower(FollowerArguments(1, ServerConfig(), tmp_path, tmp_path, [], {}, 0))
        links, leader = EngineLinks(tmp_path, 0, 2), OrderSender(tmp_path, 1)
        links.send_to_all(Died("out of paper"))
        await follower.receive()
        leader.send(EngineEnded("it exited with status 1"))
        leader.send(End())
        await follower._obey(NO_SERVER)
        leader.close()
        links.close(0)
        follower._orders.close()
        follower._client.close()
        return follower._client.dead_cause

    assert asyncio.run(asyncio.wait_for(dead_cause(), 60)) == "out of paper"
