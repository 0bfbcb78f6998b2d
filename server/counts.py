"""Numbers that the API processes of one server share: a small table in memory, a row a process.

::

                    OPEN_REQUESTS  HELD  GENERATED_TOKENS ..
    the leader   0        12         0         48211
    a follower   1         9         1         47090

Each process writes its own row only, so that nothing has to be locked, and reads the sums. A process that is alone has a table of one row.
"""

from __future__ import annotations

import enum
import mmap
import os
from pathlib import Path

LEADER = 0
_FILE = "counts"
_CELL_BYTES = 8


class Count(enum.IntEnum):
    """What is counted; the value is its column."""

    PID = 0
    IS_READY = 1  # 1 once the process could answer requests
    HAS_OPENED = 2  # the leader's: 1 once all have been ready
    IS_DRAINING = 3
    OPEN_REQUESTS = 4  # in the engine
    HELD = 5  # what the end waits for beside those
    PREFILL_TOKENS = 6  # of prompts in the engine that have no token yet
    LOAD = 7  # requests being answered, for /load
    COMPUTED_TOKENS = 8  # of prompts, since the start, as are the following
    GENERATED_TOKENS = 9
    ENDED_CPU_MS = 10  # the leader's: what processes that have ended have used


# These outlive their process, in the leader's row.
_TOTALS = (Count.COMPUTED_TOKENS, Count.GENERATED_TOKENS)


class Counts:
    """One process's view of the table. ``index`` is its row: 0 the leader's."""

    def __init__(self, cells: memoryview, index: int) -> None:
        self.index = index
        self.num_processes = cells.nbytes // _CELL_BYTES // len(Count)
        self._cells = cells
        self.set(Count.PID, os.getpid())

    @classmethod
    def alone(cls) -> Counts:
        """For a server of one API process."""
        return cls(memoryview(bytearray(len(Count) * _CELL_BYTES)).cast("q"), LEADER)

    @classmethod
    def create(cls, directory: Path, num_processes: int) -> Counts:
        """The leader's, in a new file that the others ``join``."""
        (directory / _FILE).write_bytes(bytes(num_processes * len(Count) * _CELL_BYTES))
        return cls.join(directory, LEADER)

    @classmethod
    def join(cls, directory: Path, index: int) -> Counts:
        with (directory / _FILE).open("r+b") as opened:
            return cls(memoryview(mmap.mmap(opened.fileno(), 0)).cast("q"), index)

    @property
    def is_leader(self) -> bool:
        return self.index == LEADER

    @property
    def are_open(self) -> bool:
        """Whether every process has been ready, so that a client may be told to begin, whichever of them it meets."""
        return self.num_processes == 1 or bool(self.of(LEADER, Count.HAS_OPENED))

    def set(self, count: Count, value: int) -> None:
        self._cells[self.index * len(Count) + count] = value

    def add(self, count: Count, amount: int) -> None:
        self._cells[self.index * len(Count) + count] += amount

    def of(self, index: int, count: Count) -> int:
        return self._cells[index * len(Count) + count]

    def total(self, count: Count) -> int:
        """Over all processes."""
        return sum(self._cells[count :: len(Count)])

    def pids(self) -> list[int]:
        """Of the processes that have begun."""
        return [pid for pid in self._cells[Count.PID :: len(Count)] if pid]

    def retire(self, index: int) -> None:
        """For the leader, once a process has ended: what that had open is gone, what it had done stays counted."""
        for count in _TOTALS:
            self.add(count, self.of(index, count))
        for count in Count:
            self._cells[index * len(Count) + count] = 0
