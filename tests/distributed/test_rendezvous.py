"""Ranks that meet over the network."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from headway.server.distributed.rendezvous import NetworkMeeting, join_ranks


def test_ranks_of_two_addresses() -> None:
    """Loopback has many: rank 0 listens at one of them alone, and each rank is reached at its own."""
    listener = socket.create_server(("127.0.0.2", 0))
    meeting = NetworkMeeting("127.0.0.2", listener.getsockname()[1], "key", "127.0.0.3")
    first = replace(meeting, own_address="127.0.0.2", listener=listener.detach())

    def work(rank: int) -> list[float]:
        group = join_ranks(meeting if rank else first, rank, 2, torch.device("cpu"))
        return group.all_reduce(torch.full((3,), rank + 1.0)).tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [[3.0] * 3] * 2
