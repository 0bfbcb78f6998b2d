"""Where ranks that are elsewhere reach the engine: open while it starts, for those with its credentials only."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from headway.server.engine.executor.rank_messages import Hello
from headway.server.engine.executor.secure_link import SecureLink, make_credentials, welcome
from headway.server.errors import RankDied

_GREETING_S = 5.0  # for a handshake; whoever is slower may try again
_GREETERS = 16
_LOOK_S = 0.1
_START_S = 120.0  # until a rank's process has imported what it needs to say that it is there


class Door:
    def __init__(self, address: str) -> None:
        self.credentials = make_credentials()
        self._socket = socket.create_server((address, 0))
        self._socket.settimeout(_LOOK_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def admit(self, ranks: set[int], check: Callable[[], None]) -> dict[int, tuple[SecureLink, Hello]]:
        """Waits until all ``ranks`` have come. ``check`` is called meanwhile, and raises what keeps one from coming. Then nobody is let
        in any more."""
        context = self.credentials.context(is_server=True)
        met: queue.SimpleQueue[tuple[SecureLink, Hello]] = queue.SimpleQueue()

        def greet(plain: socket.socket) -> None:
            try:
                link = welcome(plain, context, _GREETING_S)
                met.put((link, msgspec.msgpack.decode(link.recv_bytes(), type=Hello)))
            except (OSError, EOFError, msgspec.DecodeError):  # a stranger, or one that has ended: that is told by whoever started it
                plain.close()

        found: dict[int, tuple[SecureLink, Hello]] = {}
        deadline = time.monotonic() + _START_S
        with self._socket, ThreadPoolExecutor(_GREETERS, "greeter") as greeters:
            while ranks - found.keys():
                check()
                if time.monotonic() > deadline:
                    missing = ", ".join(map(str, sorted(ranks - found.keys())))
                    raise RankDied(f"rank {missing} did not reach the engine at {self.address[0]}:{self.address[1]} in {_START_S:.0f} s")
                with suppress(TimeoutError):
                    greeters.submit(greet, self._socket.accept()[0])
                while not met.empty():
                    link, hello = met.get()
                    found[hello.rank] = link, hello
        return found

    def close(self) -> None:
        self._socket.close()
