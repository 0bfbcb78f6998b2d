"""Several sockets on one address, and nobody else's."""

from __future__ import annotations

import selectors
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from headway.server.siblings.listeners import another, share


def test_connections_are_spread_over_those_that_listen() -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        share(first)
        second, silent = stack.enter_context(another(first)), stack.enter_context(another(first))
        second.listen()
        assert silent.getsockname() == first.getsockname()
        for listener in (first, second):
            selector.register(listener, selectors.EVENT_READ)
        accepted = {first: 0, second: 0}
        for _ in range(60):
            with socket.create_connection(first.getsockname(), timeout=60):
                ((key, _),) = selector.select(timeout=60)
                listener = key.fileobj
                assert isinstance(listener, socket.socket)
                listener.accept()[0].close()
                accepted[listener] += 1
        assert min(accepted.values()) > 0


def test_a_second_server_is_refused_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        share(first)
        with another(first), pytest.raises(OSError, match="in use"):
            socket.create_server(first.getsockname())


def test_a_unix_socket_is_accepted_from_by_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(tmp_path / "s"))
        first.listen()
        share(first)
        with another(first) as second, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            second.accept()[0].close()
