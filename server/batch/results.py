"""The output of run-batch: a line for each answer, in the order in which they came."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic_core import from_json

from headway.server.api.json_text import encode
from headway.server.errors import ConfigError

_LOWEST_FAILURE = 500  # a status from which on asking again may help


class ResultFile:
    """A context manager. Whoever has it open has it alone; each line is in the file when ``write`` returns.

    ``finished``: the custom_ids that a run before has lasting answers for, and whether they are good ones or refusals. Lines of it that
    say that the server failed, and a last line that was cut off, are taken out: those requests are made again.
    """

    def __init__(self, path: Path, *, resumes: bool, overwrites: bool) -> None:
        """Raises ConfigError where there are results already, and nothing is said of them."""
        self._path = path
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise ConfigError([f"the output file {path} can't be written: {error.strerror}"]) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError([f"another run is writing to {path}; wait for it, or name another --output-file"]) from None
        if os.fstat(self._file.fileno()).st_size and not (resumes or overwrites):
            self._file.close()
            raise ConfigError([f"{path} holds results already: --resume goes on where they end, --overwrite begins anew"])
        self.finished: dict[str, bool] = self._keep_finished() if resumes else {}
        if overwrites:
            self._file.truncate(0)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, result: dict[str, Any]) -> None:
        self._file.write(encode(result) + b"\n")
        self._file.flush()

    def _keep_finished(self) -> dict[str, bool]:
        """In place and from the front: what is kept is never longer than what was there, and the file is never without it."""
        finished: dict[str, bool] = {}
        read_to = kept_to = 0
        self._file.seek(0)
        kept = os.open(self._path, os.O_WRONLY)
        try:
            for line in self._file:
                read_to += len(line)
                custom_id, status = _lasting(line)
                if custom_id is None or custom_id in finished:
                    continue
                finished[custom_id] = 200 <= status < 300
                if kept_to + len(line) != read_to:
                    os.pwrite(kept, line, kept_to)
                kept_to += len(line)
        finally:
            os.close(kept)
        self._file.truncate(kept_to)
        return finished


def _lasting(line: bytes) -> tuple[str | None, int]:
    """(custom_id, status) of a line with a lasting answer; (None, 0) of any other."""
    try:
        result = from_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None, 0
    if not isinstance(result, dict) or not isinstance(result.get("custom_id"), str):
        return None, 0
    response = result.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(status, int) or status >= _LOWEST_FAILURE or status == 429:
        return None, 0
    return result["custom_id"], status
