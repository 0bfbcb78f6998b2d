"""The log of a command in the place of an image."""

from __future__ import annotations

import os
import sys

import pytest
from polling import wait_until

from headway.container.conformance.engines import process as module
from headway.container.conformance.engines.base import Start
from headway.container.conformance.engines.process import ProcessEngine

PROGRAM = "print('begins'); print('x' * 20); print('the end')"


@pytest.mark.parametrize(
    ("most", "kept"), [(9, "begins\nxx\nthe end"), (18, f"begins\n{'x' * 20}\nthe end"), (99, f"begins\n{'x' * 20}\nthe end")]
)
def test_of_a_long_log_the_beginning_and_the_end_are_kept(monkeypatch: pytest.MonkeyPatch, most: int, kept: str) -> None:
    monkeypatch.setattr(module, "_MAX_LOG_BYTES", most)
    copy = ProcessEngine([sys.executable, "-c", PROGRAM], os.environ).start(Start())
    try:
        wait_until(lambda: copy.exit_status() is not None, 20)
        assert copy.log() == f"{kept}\n"
    finally:
        copy.close()
