"""Engines whose rank 0 may be this process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _tests_may_be_slow_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's end that nobody asks for ends the process of rank 0, which is here that of the tests."""
    monkeypatch.setattr("headway.server.engine.executor.ranks._TELL_S", 60.0)
