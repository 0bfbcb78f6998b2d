"""A stub_contract.Stub behind uvicorn on a loopback port of this process."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn
from stub_contract import Stub


class StubServer:
    """A context manager; ``url`` is where it listens."""

    def __init__(self, stub: Stub) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(stub, log_level="critical"))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> StubServer:
        # Listens before the thread does: a connection waits until it is accepted.
        self._socket.listen(128)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self._socket.close()
        assert not self._thread.is_alive()
