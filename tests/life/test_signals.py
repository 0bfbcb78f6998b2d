"""Signals before there is an event loop, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import signal
from headway.server.signals import EarlyStop, Stopped, hold_back_signals, ignore_further_signals

hold_back_signals()
signal.raise_signal(signal.SIGTERM)     # over the exec: nothing happens yet
early = EarlyStop()
try:
    early.install()
    raise AssertionError("the signal that was held back did not arrive")
except Stopped as stopped:
    assert stopped.code == 0
signal.raise_signal(signal.SIGINT)      # on the way out: no second exception, the first wish stays
print(early.asked.name)
ignore_further_signals()
signal.raise_signal(signal.SIGTERM)
"""


def test_the_first_signal_ends_the_start_and_others_change_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, signal.SIGTERM.name), done.stderr
