"""Where an API process beside the leader begins, and its exit status."""

from __future__ import annotations

import logging
import os

from headway.server.api_processes.arguments import FollowerArguments
from headway.server.children import die_with_parent, ignore_signals
from headway.server.config.server import secrets_of
from headway.server.log import log_uncaught_in_threads
from headway.server.log_setup import set_up_logging

log = logging.getLogger(__name__)


def run_follower(arguments: FollowerArguments) -> None:
    """Entry point of the process. Exit status: 0 told to end, 1 anything else."""
    ignore_signals()
    die_with_parent()
    log_uncaught_in_threads()
    status = 0
    try:
        set_up_logging(arguments.config.logs, f"api-{arguments.index}", secrets_of(arguments.config))
        import uvloop

        from headway.server.api_processes.follower import live  # fastapi, uvicorn

        uvloop.new_event_loop().run_until_complete(live(arguments))
    except Exception:  # the process edge
        log.exception("API process %d broke", arguments.index)
        status = 1
    logging.shutdown()
    # Without the interpreter's own end, which would wait for the threads of a download.
    os._exit(status)
