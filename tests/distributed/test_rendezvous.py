"""Ranks that meet over the network: those of a stage, and those of the same share of each."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from headway.server.distributed.groups import PeerLost
from headway.server.distributed.meeting import NetworkMeeting
from headway.server.distributed.places import RankPlace
from headway.server.distributed.rendezvous import join_ranks

CPU = torch.device("cpu")


def test_stages_of_two_ranks_at_two_addresses() -> None:
    """Loopback has many: rank 0 listens at one of them alone, and each rank is reached at its own. Ranks 0 and 1 are the last stage."""
    listener = socket.create_server(("127.0.0.2", 0))
    meeting = NetworkMeeting("127.0.0.2", listener.getsockname()[1], "key", "127.0.0.3")
    first = replace(meeting, own_address="127.0.0.2", listener=listener.detach())

    met = []

    def work(rank: int) -> list[float]:
        groups = join_ranks(meeting if rank else first, RankPlace(rank, 2, 2), CPU)
        met.append(groups)  # for as long as any of them may still receive
        summed = groups.tensor.all_reduce(torch.full((3,), 10.0**rank))
        if groups.place.stage.is_first:
            groups.pipeline.send(summed)
            return summed.tolist()
        return groups.pipeline.receive(torch.empty(3)).tolist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [[1100.0] * 3] * 4


@pytest.fixture
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.server.distributed.rendezvous._PATIENCE", timedelta(seconds=0.2))


@pytest.mark.usefixtures("_little_patience")
def test_nobody_else_comes(tmp_path: Path) -> None:
    with pytest.raises(PeerLost, match="the ranks could not meet: "):
        join_ranks(tmp_path, RankPlace(0, 2), CPU)


@pytest.mark.usefixtures("_little_patience")
def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(PeerLost, match=f"the ranks could not meet at 127.0.0.1:{port}: "):
            join_ranks(NetworkMeeting("127.0.0.1", port, "key", "127.0.0.1"), RankPlace(1, 2), CPU)


def test_an_address_of_another_host_is_no_fault_of_other_ranks() -> None:
    with pytest.raises(RuntimeError, match=r"203\.0\.113\.9") as caught:
        join_ranks(NetworkMeeting("127.0.0.1", 1, "key", "203.0.113.9"), RankPlace(1, 2), CPU)
    assert not isinstance(caught.value, PeerLost)
