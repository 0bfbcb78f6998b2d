"""Where the ranks of a model meet. No torch: who starts a rank knows it, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NetworkMeeting:
    """Where ranks of several hosts meet: rank 0 listens there."""

    address: str
    port: int
    key: str  # known to the ranks alone, without which nothing is found at that port
    own_address: str  # at which the others reach this rank
    listener: int | None = None  # rank 0's: a listening socket, which passes to torch


Meeting = Path | NetworkMeeting  # a directory is private to the ranks of one host, and new
