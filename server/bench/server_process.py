"""A server that a benchmark starts, waits for and surely stops."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType

import psutil

from headway.server.bench.machine import process_tree

_POLL_S = 0.05
_STOP_PATIENCE_S = 20.0
_LAST_LINES = 15
# Below those that a system hands out by itself, from 32768 on Linux, also to the clients' ends of connections: a server binds its own
# seconds after it was chosen, and another process may have been given it in between.
_PORTS = range(20000, 32000)


class ServerFailed(Exception):
    """The server did not become ready; the message ends with its last lines."""


class ServerProcess:
    """A context manager: started on entry, ready when ``wait_ready`` returns, ended with all its children on exit.

    Its output goes to a temporary file, so that a full pipe can never stop it. It leads a session of its own: ctrl-C in the
    terminal reaches the benchmark alone, which then stops the server in order. ``tls`` says whom an https ``url`` may belong to.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], url: str, health_path: str = "/health", tls: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        self._argv, self._env = list(argv), dict(env)
        self._health = url + health_path
        self._tls = tls
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "used outside of its with block"
        return self._process.pid

    def __enter__(self) -> ServerProcess:
        self._started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as problem:
            self._log.close()
            raise ServerFailed(f"{self._argv[0]} can't be started: {problem.strerror}") from problem
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stop()
        finally:
            self._log.close()

    def wait_ready(self, limit_s: float) -> float:
        """Seconds from start until the health route answered 200. Raises ServerFailed if it ends before, or at the limit."""
        assert self._process is not None
        while True:
            if _answers(self._health, self._tls):
                return time.perf_counter() - self._started
            if self._process.poll() is not None:
                raise ServerFailed(f"it ended with status {self._process.returncode} before it was ready:\n{self._last_lines()}")
            if time.perf_counter() - self._started > limit_s:
                raise ServerFailed(f"it was not ready after {limit_s:.0f} s:\n{self._last_lines()}")
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        """Asks the server to end, waits, then ends by force whatever is left of its tree: each process by its own pid."""
        if self._process is None:
            return
        descendants = process_tree(self._process.pid)[1:]  # now: orphans have no parent to be found by
        self._process.terminate()
        try:
            self._process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when a second ctrl-C ends the patience
            self._process.kill()
            for process in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()

    def lines(self) -> list[str]:
        """What it has written so far, stdout and stderr together."""
        written = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)  # its place in the file is the server's too
        return written.decode(errors="replace").splitlines()

    def _last_lines(self) -> str:
        return "\n".join(self.lines()[-_LAST_LINES:])


def free_port() -> int:
    """A port of the loopback address that was free a moment ago, and that no system gives away unasked."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


def _answers(address: str, tls: ssl.SSLContext | None) -> bool:
    https = urllib.request.HTTPSHandler(context=tls)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)  # loopback never goes through a proxy
    try:
        with opener.open(address, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
