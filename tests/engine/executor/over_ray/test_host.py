"""A rank's process as its host has it: what it prints and how it ends are told, and it ends with either side."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from polling import wait_until
from process_tree import is_running

from headway.server.config.server import ServerConfig
from headway.server.distributed.meeting import NetworkMeeting
from headway.server.engine.executor.over_ray.door import Door
from headway.server.engine.executor.over_ray.host import RankHost
from headway.server.engine.executor.rank_messages import Failed, Here, RankArguments, Seat, decode_from_rank
from headway.server.source.files import ModelFiles


def arguments(door: Door, directory: Path, *, is_elsewhere: bool = False) -> RankArguments:
    config = ServerConfig.model_validate({"model": {"model": str(directory / "none"), "device": "cpu"}})
    seat = Seat(NetworkMeeting("127.0.0.1", 1, "key", "127.0.0.1"), door.address, door.credentials, 0, is_elsewhere)
    return RankArguments(config, ModelFiles("safetensors", directory, None, "m"), 0, 1, directory, seat)


def told(arguments: RankArguments) -> tuple[list[str], str]:
    """(lines, how it ended)."""
    *lines, end = RankHost().run(arguments)
    assert isinstance(end, str)
    return [line for some in lines for line in some], end


def test_one_that_can_not_reach_the_engine_says_so(tmp_path: Path) -> None:
    door = Door("127.0.0.1")
    door.close()
    lines, end = told(arguments(door, tmp_path))
    assert any("engine rank 1 on 127.0.0.1" in line and "Connection refused" in line for line in lines)
    assert end == "exited with status 1; its last log lines say why"


@pytest.mark.parametrize("how", ["it is killed", "the engine is gone"])
def test_its_end(tmp_path: Path, how: str) -> None:
    door = Door("127.0.0.1")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(told, arguments(door, tmp_path))
        ((link, hello),) = door.admit({1}, lambda: None).values()
        assert isinstance(decode_from_rank(link.recv_bytes()), Here)
        assert is_running(hello.pid)
        if how == "it is killed":
            os.kill(hello.pid, signal.SIGKILL)
        else:
            link.cut()
        expected = "was killed (SIGKILL)" if how == "it is killed" else "exited with status 1"
        assert ended.result(30)[1].startswith(expected)
        wait_until(lambda: not is_running(hello.pid))
        link.close()


def test_a_host_without_the_model_ends_the_start(tmp_path: Path) -> None:
    door = Door("127.0.0.1")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(told, arguments(door, tmp_path, is_elsewhere=True))
        ((link, _),) = door.admit({1}, lambda: None).values()
        words = decode_from_rank(link.recv_bytes())
        assert isinstance(words, Failed)
        assert words.is_user_error
        assert words.cause.startswith("Host 127.0.0.1 of the Ray cluster lacks the model: ")
        assert ended.result(30)[1].startswith("exited with status 2")
        link.close()
