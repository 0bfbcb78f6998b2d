"""Manners that the API processes have in common, towards the log and the engine."""

from __future__ import annotations

import logging
import os

# Where uvicorn tells of its own start and end.
_STAGES = frozenset({"server", "on"})


def hush_stages() -> None:
    """uvicorn's "Application startup complete." comes seconds or minutes before the server is ready, and would be taken for that."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_stage)


def _is_no_stage(record: logging.LogRecord) -> bool:
    return record.module not in _STAGES or record.levelno > logging.INFO


def niceness() -> int:
    """Of this thread, as the kernel counts it: 19 gives way to all others."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def yield_to_engine(usual: int) -> None:
    """Lowers this thread's priority, the event loop's, where the engine computes on the same cores. ``usual``: the engine's niceness.

    The engine's threads wait for each other many times a layer, so each moment taken from one is taken from all: 8 streams of the
    demo model on 2 cores went from 177 to 208 tokens/s (2026-11). The loop still runs whenever an engine thread sleeps.
    """
    # Not os.nice(10): a follower that the leader's event loop starts again begins with that one's niceness, and would have twice as much.
    os.setpriority(os.PRIO_PROCESS, 0, min(usual + 10, 19))
