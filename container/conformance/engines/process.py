"""Copies that are processes of this machine: a command in the place of an image's ENTRYPOINT."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import psutil

from headway.container.conformance.engines.base import Copy, ImageFacts, Start
from headway.server.errors import ConfigError, HeadwayError

_MAX_LOG_BYTES = 4 * 2**20


class ProcessEngine:
    """``command`` is run with this process' environment and the copy's own; it listens on this machine's ports. Raises ConfigError."""

    has_networks = False
    isolates = False

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        if shutil.which(command[0]) is None:
            raise ConfigError([f"--command: there is no program {command[0]}"])
        self._command, self._environ = list(command), dict(environ)

    def start(self, start: Start) -> Copy:
        return ProcessCopy([*self._command, *start.words], {**self._environ, **start.environ}, f"http://127.0.0.1:{start.port}")

    def facts(self) -> ImageFacts | None:
        return None

    def close(self) -> None:
        """It holds nothing: copies are closed by themselves."""


class ProcessCopy:
    """It leads a session of its own, so that all of it can be ended."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], url: str) -> None:
        self.url = url
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            self._log.close()
            raise HeadwayError(f"--command: {argv[0]} can't be started: {error.strerror}.") from error

    def log(self) -> str:
        """Of a long one the beginning and the end."""
        number = self._log.fileno()
        beginning = os.pread(number, _MAX_LOG_BYTES, 0)
        end = os.pread(number, _MAX_LOG_BYTES, max(len(beginning), os.fstat(number).st_size - _MAX_LOG_BYTES))
        return (beginning + end).decode(errors="replace")

    def exit_status(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def command_lines(self) -> str:
        lines = []
        for process in self._tree():
            try:
                lines.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return "\n".join(lines)

    def ping_inside(self) -> int | None:
        raise NotImplementedError("processes have no network of their own")

    def close(self) -> None:
        for process in reversed(self._tree()):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._log.close()

    def _tree(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
