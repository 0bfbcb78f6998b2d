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


def yield_to_engine() -> None:
    """Lowers this thread's priority, the event loop's, where the engine computes on the same cores.

    The engine's threads wait for each other many times a layer, so each moment taken from one is taken from all: 8 streams of the
    demo model on 2 cores went from 177 to 208 tokens/s (2026-11). The loop still runs whenever an engine thread sleeps.
    """
    os.nice(10)
