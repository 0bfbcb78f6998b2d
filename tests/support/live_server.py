"""Starts the real server as a user would (`headway serve ...`), on a free port, and ends it by its process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from ports import claimed_port


class LiveServer:
    """A running `headway serve`. Use as a context manager; ``log()`` is all it printed. ``prefix`` is a command that runs it."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, command: str = "serve", prefix: Sequence[str] = ()) -> None:
        self.port = claimed_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.NamedTemporaryFile(prefix="headway-test-", suffix=".log", delete=False)  # noqa: SIM115
        network = [] if command == "entrypoint" else ["--host", "127.0.0.1", "--port", str(self.port)]
        # With more, each step waits for the thread whose processor another test has.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        if command == "entrypoint":
            environment |= {"SM_VLLM_HOST": "127.0.0.1", "SM_VLLM_PORT": str(self.port)}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "headway.server.cli", command, *arguments, *network],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._log.close()
        os.unlink(self._log.name)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def wait_ready(self, timeout_s: float = 120) -> LiveServer:
        self.wait_for(lambda: httpx.get(f"{self.url}/ping", timeout=5).status_code == 200, timeout_s)
        return self

    def wait_for(self, condition: object, timeout_s: float = 60) -> None:
        """Polls until the condition holds; fails with the log when the server exits or time runs out."""
        assert callable(condition)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server exited with {self.process.returncode}:\n{self.log()}")
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s; the log:\n{self.log()}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def metric(self, name: str) -> float:
        """The value of one engine metric, such as vllm:num_requests_running."""
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            if line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")
