"""The stream that SIGTERM meets."""

from __future__ import annotations

from typing import Any, cast

import pytest
from stub_contract import KEY, Stub
from stub_server import StubServer

from headway.container.conformance.stopping import stop_with_stream
from headway.container.conformance.subject import Subject, Wishes


class Copy:
    """Ends at once, and lets its streams end."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    def terminate(self) -> None:
        self._stub.is_draining = True

    def exit_status(self) -> int | None:
        return 0 if self._stub.is_draining else None


@pytest.mark.parametrize(("piece_s", "least", "most"), [(0.0, 256, 256), (0.1, 48, 120), (0.3, 48, 48)])
def test_a_slow_model_is_asked_for_no_more_than_it_can_finish(piece_s: float, least: int, most: int) -> None:
    stub = Stub()
    stub.short_piece_s, stub.piece_s = piece_s, 0.1
    with StubServer(stub) as server, Subject(server.url, Wishes(KEY)) as subject:
        stop = stop_with_stream(cast(Any, Copy(stub)), subject)
    assert stop.is_stream_whole, stop.stream
    assert stub.asked[-2] == 16
    assert least <= stub.asked[-1] <= most
