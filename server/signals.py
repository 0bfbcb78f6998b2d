"""SIGTERM and SIGINT from the first moment until there is an event loop to take them."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Told apart from an exit that a user's own script asks for."""


class EarlyStop:
    """Ends the main thread with Stopped(0) at the first signal; further ones change nothing.

    As process 1 a signal without a handler would be lost. ``asked`` remembers the signal: an import that swallows the exception must
    not swallow the wish to stop.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def install(self) -> None:
        """From now on. The entrypoint holds signals back over its exec; they arrive here."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number)
            raise Stopped(0)


def interrupt_at_signals() -> None:
    """For a command that only has to end, also as process 1: each signal raises KeyboardInterrupt. Takes what was held back."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def hold_back_signals() -> None:
    """For an exec: what comes now waits for the next program to take it, instead of hitting it without a handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def ignore_further_signals() -> None:
    """For the way out, which is short: a second `docker stop` must not turn the exit status."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
