"""What a policy is: it chooses one server among those that can be asked, and does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headway.server.router.servers import Server


class Policy(Protocol):
    """Holds no connection and no clock. Not for several threads."""

    def update(self, urls: Sequence[str]) -> None:
        """The list of servers is this from now on, whether they are healthy or not."""

    def choose(self, candidates: tuple[Server, ...], key: bytes | None, now: float) -> Server:
        """One of ``candidates``, which are not empty; as a rule the very tuple of the last call, so something may be kept for it.

        ``key``: what requests that begin alike have in common; None where nothing is known. ``now`` is time.monotonic()."""
