"""What the engine asks of a rank beside it, wherever that one runs: how it is told, heard, watched and ended."""

from __future__ import annotations

import queue
from typing import Protocol

from headway.server.engine.executor.rank_messages import Done, Failed, Here, Sized
from headway.server.engine.kv.transfer.orders import Report

Answer = Here | Sized | Done


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Rank(Protocol):
    """``answers`` holds what it said, and None behind its end; ``reports`` what its worker of the KV connector has done. Written to by one
    thread, read from by another."""

    rank: int
    host: str | None  # its address, if it is on another host than the engine
    answers: queue.SimpleQueue[Answer | None]
    reports: queue.SimpleQueue[Report]

    @property
    def link(self) -> HasFileno:
        """Readable when there is something to listen to."""
        ...

    @property
    def pid(self) -> int:
        """On its host."""
        ...

    def tell(self, message: bytes) -> None:
        """What can't be told to one that has ended is told to nobody: its end is noticed elsewhere."""
        ...

    def listen(self) -> bool:
        """Takes in what has come; False: there is no more."""
        ...

    def last_words(self) -> Failed:
        """Of one that has closed its link: what it said, or else how it ended. Unless a user's error is the cause, it follows the name."""
        ...

    def end(self, patience_s: float) -> None:
        """Waits for it to end by itself, then makes sure."""
        ...
