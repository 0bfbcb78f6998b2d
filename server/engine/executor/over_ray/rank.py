"""A rank's process on a host of a Ray cluster as the engine has it: started, told, ended, and how it ended. See executor/rank.py."""

from __future__ import annotations

import queue
import threading
from typing import Any, TextIO

from headway.server.engine.executor.over_ray.connections import cut_connections
from headway.server.engine.executor.rank import Answer
from headway.server.engine.executor.rank_messages import Failed, Hello, Moved, RankArguments, decode_from_rank
from headway.server.engine.executor.secure_link import LOST_S, SecureLink
from headway.server.engine.kv.transfer.orders import Report

_HEARD_S = 2.0  # until how it ended is known


class RayRank:
    def __init__(self, host: Any, arguments: RankArguments, log: TextIO) -> None:
        """Starts it. ``host`` is a RankHost's actor; ``log`` gets what the rank prints."""
        assert arguments.seat is not None
        self.rank = arguments.rank
        self.host = arguments.host_elsewhere
        self.answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._host = host
        self._address = arguments.seat.meeting.own_address
        self._role = arguments.role
        self._log = log
        self._link: SecureLink | None = None
        self._hello: Hello | None = None
        self._last_words: Failed | None = None
        self._is_lost = False
        self._end = ""
        self._has_ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, args=(arguments,), daemon=True, name=f"rank-{self.rank}")
        self._follower.start()

    def reached(self, link: SecureLink, hello: Hello) -> None:
        """``hello`` was read from ``link``, which may have taken in more with it: nothing would tell of that any more."""
        self._link, self._hello = link, hello
        self.listen()

    @property
    def link(self) -> SecureLink:
        assert self._link is not None, "it has been reached"
        return self._link

    @property
    def pid(self) -> int:
        assert self._hello is not None, "it has been reached"
        return self._hello.pid

    @property
    def ended(self) -> str | None:
        """How, once it has."""
        return f"on {self._address} {self._end}" if self._has_ended.is_set() else None

    def tell(self, message: bytes) -> None:
        try:
            self.link.send_bytes(message)
        except OSError:
            return

    def listen(self) -> bool:
        try:
            for data in self.link.arrived():
                message = decode_from_rank(data)
                if isinstance(message, Failed):
                    self._last_words = message
                elif isinstance(message, Moved):
                    for report in message.reports:
                        self.reports.put(report)
                else:
                    self.answers.put(message)
        except EOFError:
            return False
        except OSError:
            self._is_lost = True
            cut_connections(self._address)
            return False
        return True

    def last_words(self) -> Failed:
        words = self._last_words
        if words is not None:
            return words if words.is_user_error else Failed(f"on {self._address} ended: {words.cause}", is_echo=words.is_echo)
        if self._is_lost:
            return Failed(f"was lost with its host {self._address}, which has not answered for {LOST_S} s")
        self._has_ended.wait(_HEARD_S)
        return Failed(self.ended or f"on {self._address} does not answer any more")

    def end(self, patience_s: float) -> None:
        import ray

        if not self._is_lost:
            self._has_ended.wait(patience_s)
        ray.kill(self._host)
        if self._link is not None:
            self._link.close()

    def _follow(self, arguments: RankArguments) -> None:
        """In a thread: what the rank prints, then how it ended, or its actor."""
        import ray

        try:
            for told in self._host.run.options(num_returns="streaming").remote(arguments):
                lines = ray.get(told)
                if isinstance(lines, str):
                    self._end = lines
                else:
                    self._print(lines)
        except ray.exceptions.RayError as problem:
            self._end = f"ended with its actor: {_cause(problem)}"
            if self._link is not None:
                self._link.cut()  # the process may not have ended with it
        self._has_ended.set()

    def _print(self, lines: list[str]) -> None:
        """Lines of the rank's log bear its name; what native code prints does not."""
        text = "".join(f"{line}\n" if self._role in line else f"{self._role}: {line}\n" for line in lines)
        self._log.write(text)
        self._log.flush()


def _cause(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
