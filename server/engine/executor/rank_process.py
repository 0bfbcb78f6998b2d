"""A rank's process on the engine's own host, as the engine, which is rank 0, has it. See executor/rank.py."""

from __future__ import annotations

import multiprocessing
import queue
import subprocess
import sys
from multiprocessing.connection import Connection

from headway.server.children import how_it_ended
from headway.server.engine.executor.rank import Answer
from headway.server.engine.executor.rank_messages import Failed, Moved, RankArguments, decode_from_rank
from headway.server.engine.kv.transfer.orders import Report
from headway.server.machine import num_oom_kills

_ENTRY = "headway.server.engine.executor.rank_entry"


class RankProcess:
    def __init__(self, arguments: RankArguments) -> None:
        self.rank = arguments.rank
        self.host: str | None = None
        self.answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._link, theirs = multiprocessing.Pipe()
        self._oom_kills_before = num_oom_kills()
        self._last_words: Failed | None = None
        # Not multiprocessing's: the engine is one of its daemons, which may have no children of that kind. -P: no file of the directory
        # that the server was started in is imported in the place of a module.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _ENTRY, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._link.send(arguments)

    @property
    def link(self) -> Connection:
        return self._link

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: bytes) -> None:
        try:
            self._link.send_bytes(message)
        except OSError:
            return

    def listen(self) -> bool:
        try:
            message = decode_from_rank(self._link.recv_bytes())
        except (EOFError, OSError):
            return False
        if isinstance(message, Failed):
            self._last_words = message
        elif isinstance(message, Moved):
            for report in message.reports:
                self.reports.put(report)
        else:
            self.answers.put(message)
        return True

    def last_words(self) -> Failed:
        words = self._last_words
        if words is not None:
            return words if words.is_user_error else Failed(f"ended: {words.cause}", is_echo=words.is_echo)
        try:
            status: int | None = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return Failed("does not answer any more")
        return Failed(how_it_ended(status, self._oom_kills_before))

    def end(self, patience_s: float) -> None:
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._link.close()
