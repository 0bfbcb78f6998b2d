"""A TCP proxy that a test can cut: a network that is gone from one moment to the next."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class CutProxy:
    """Passes bytes between its own port and ``port`` on this machine; of what comes back on connections behind the first ``num_passed``
    only the first ``num_bytes``. Once ``cut``, all connections are closed, and so is each new one."""

    def __init__(self, port: int, num_passed: int, num_bytes: int) -> None:
        self._target = port
        self._num_passed = num_passed
        self._num_bytes = num_bytes
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.num_accepted = 0
        self._is_cut = False
        self._start(self._accept)

    def __enter__(self) -> CutProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for each in (self._listener, *self._open):
            each.close()

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                self.num_accepted += 1
                self._start(self._pass, near, far)
                passes = self._pass if self.num_accepted <= self._num_passed else self._begin
                self._start(passes, far, near)

    def _begin(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            to.sendall(source.recv(self._num_bytes, socket.MSG_WAITALL))

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._is_cut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
