"""What process 1 owes the others: orphans end up as its children, and their exit has to be collected."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 5.0


class Reaper:
    """Collects zombies that were handed to this process, and never one that this process waits for itself.

    Somebody who waits for a child collects it at once; so what is still there at the next look was nobody's. ``is_ours`` names
    children whose status is read later.
    """

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        self._seen: set[tuple[int, str]] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.look()

    def look(self) -> list[int]:
        """Collects what the look before saw too, and returns the process ids."""
        zombies = {zombie for zombie in _zombies() if not self._is_ours(zombie[0])} if _has_zombie() else set()
        collected = zombies & self._seen
        for pid, _ in collected:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._seen = zombies - collected
        return sorted(pid for pid, _ in collected)


def _has_zombie() -> bool:
    """Whether any child has ended and waits; collects nothing. Spares reading /proc where all is well."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _zombies() -> set[tuple[int, str]]:
    """(process id, start time) of this process's children that have ended. A process id alone may be another's by the next look."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name, in parentheses, may hold anything; state, parent and the rest stand behind it.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                found.add((int(entry.name), fields[19]))
    return found
