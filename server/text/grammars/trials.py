"""Grammars on trial: compiled in a process of their own, which may die of one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import weakref
from collections.abc import Callable
from threading import Lock

import msgspec

from headway.server.text.grammars.trial import MAX_CPU_S
from headway.server.text.grammars.vocabulary import Vocabulary

_TOO_MUCH = f"it takes more than {MAX_CPU_S:g} s, or too much memory, to compile"


class Trials:
    """Owns the process, which is started when it is needed, and again after it died. One grammar at a time, from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = _nothing  # of the process; it ends with this object too
        self._lock = Lock()

    def check(self, form: str) -> None:
        """Raises ValueError with the reason why the grammar, in the library's form, can't be used."""
        with self._lock:
            process = self._process = self._process or self._started()
            answer = _answer(process, msgspec.json.encode(form))
            if not answer:
                self._process = None
                self._end()
                raise ValueError(_TOO_MUCH)
        reason = msgspec.json.decode(answer, type=str | None)
        if reason is not None:
            raise ValueError(reason)

    def _started(self) -> subprocess.Popen[bytes]:
        # A session of its own: signals to the server's group are the server's to act on.
        process = subprocess.Popen(
            [sys.executable, "-m", "headway.server.text.grammars.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None, "it is a pipe"
        self._end = weakref.finalize(self, _end, process)
        process.stdin.write(msgspec.json.encode(self._vocabulary) + b"\n")
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process, contextlib.suppress(BrokenPipeError):  # closes its pipes, waits for its end
        process.communicate()


def _nothing() -> None:
    """Where there is no process to end."""


def _answer(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Empty if the process ended over it."""
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    try:
        process.stdin.write(line + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()
