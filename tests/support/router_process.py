"""`headway router` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from routed import closed_port, until


class RouterProcess:
    """``log`` is what it has written so far."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.port = closed_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        command = [sys.executable, "-m", "headway.server.cli", "router", "--host", "127.0.0.1", "--port", str(self.port), *argv]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file, env=dict(os.environ))

    @property
    def log(self) -> str:
        return self._log.read_text()

    def pids(self) -> dict[int, int]:
        """Of the processes that serve, the newest by its index."""
        return {int(index): int(pid) for index, pid in re.findall(r"Router process (\d+) is process (\d+)", self.log)}

    async def says(self, text: str, times: int = 1) -> None:
        await until(lambda: self.log.count(text) >= times or self.process.poll() is not None, 60)
        assert self.log.count(text) >= times, self.log

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 60)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def router_process(argv: list[str], log: Path) -> AsyncIterator[RouterProcess]:
    """One that listens."""
    router = RouterProcess(argv, log)
    try:
        await router.says("listening on")
        yield router
    finally:
        router.process.kill()
        router.process.wait()
