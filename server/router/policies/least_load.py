"""The server with the least to do."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.router.policies.round_robin import RoundRobin
from headway.server.router.servers import Server

# A server that gets no answers to send its load with must not be judged by an old one for ever.
FRESH_S = 5.0


class LeastLoad:
    """See Policy. What this router has open there counts at once; what the server reports adds the requests of others that wait there,
    and how full its KV cache is where all else is equal. Equals take turns."""

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def update(self, urls: Sequence[str]) -> None:
        self._turns.update(urls)

    def choose(self, candidates: Sequence[Server], key: bytes | None, now: float) -> Server:
        loads = [load_of(server, now) for server in candidates]
        least = min(loads)
        return self._turns.choose([server for server, load in zip(candidates, loads, strict=True) if load == least], key, now)


def load_of(server: Server, now: float) -> tuple[float, int]:
    """Requests, and then the KV cache's usage in tenths: a finer difference is none. A request of ours that waits counts twice, since
    one that waits is worse than one that runs."""
    report = server.report
    if report is None or now - report.at > FRESH_S:
        return server.num_open, 0
    return server.num_open + report.num_waiting, int(report.kv_usage * 10 + 0.5)
