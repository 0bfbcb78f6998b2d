"""Between the runtime and a copy that is a process: `python -m headway.container.local.copies.guard COMMAND...`.

It outlives nobody: when standard input ends, which the death of the runtime also does, the copy and all its descendants are
killed, those that made sessions of their own too. SIGTERM is handed on. It exits as the copy did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    """The status of the command, 128 + the signal's number where one ended it, as a shell has it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the copy become ours, and can be found
    terminated = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        terminated.set()
        if child is not None:
            _terminate(child.pid)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runtime decides
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    if terminated.is_set():
        _terminate(child.pid)
    threading.Thread(target=_kill_at_end_of_input, daemon=True).start()
    status = _collect_until(child.pid)
    _kill_descendants()
    with contextlib.suppress(ChildProcessError):  # there are none left
        while os.waitpid(-1, 0):
            pass
    return status if status >= 0 else 128 - status


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _collect_until(pid: int) -> int:
    """The status of that child; orphans that end before it are collected on the way. Nobody else here waits for children."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _kill_at_end_of_input() -> None:
    # Not sys.stdin: its lock, held here, would be waited for at the interpreter's end.
    while os.read(0, 4096):
        pass
    _kill_descendants()


def _kill_descendants() -> None:
    """Until there are none: one that is killed may have started another a moment before."""
    while descendants := _alive_descendants():
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)


def _alive_descendants() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
