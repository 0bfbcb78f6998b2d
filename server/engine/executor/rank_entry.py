"""Where the process of a rank beside the engine begins, and its exit status: `python -m headway.server.engine.executor.rank_entry FD`."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

import msgspec

from headway.server.children import ignore_signals
from headway.server.engine.executor.rank_messages import Failed, Hello, RankArguments, encode
from headway.server.engine.executor.secure_link import Link, reach
from headway.server.errors import HeadwayError, RankDied, sentence_of
from headway.server.log import log_uncaught_in_threads
from headway.server.log_setup import set_up_logging

log = logging.getLogger(__name__)

_REACH_S = 20.0


def run_rank(starter: Connection) -> int:
    """Returns the exit status: 0 told to end, 2 a wrong option or model, 1 anything else. ``starter`` started it: the engine, or its
    deputy on this host."""
    ignore_signals()
    _end_with(starter)
    log_uncaught_in_threads()
    arguments: RankArguments = starter.recv()
    link: Link = starter
    try:
        set_up_logging(arguments.config.logs, arguments.role)
        if arguments.seat is not None:
            link = _reached(arguments)
            arguments = _with_files_of_this_host(arguments)
        from headway.server.engine.executor.rank_loop import live  # torch

        live(arguments, link)
    except HeadwayError as problem:
        is_echo = isinstance(problem, RankDied)
        _say(link, Failed(str(problem), is_user_error=not is_echo, is_echo=is_echo))
        return 1 if is_echo else 2
    except EOFError:  # the engine has ended
        return 1
    except Exception as problem:  # the process edge: the cause goes to the engine, the traceback to the log
        log.exception("The rank broke")
        _say(link, Failed(sentence_of(problem)))
        return 1
    return 0


def _reached(arguments: RankArguments) -> Link:
    assert arguments.seat is not None
    link = reach(arguments.seat.engine, arguments.seat.credentials, _REACH_S)
    _end_with(link)
    link.send_bytes(msgspec.msgpack.encode(Hello(arguments.rank, os.getpid())))
    return link


def _with_files_of_this_host(arguments: RankArguments) -> RankArguments:
    seat = arguments.seat
    if seat is None or not seat.is_elsewhere:
        return arguments
    from headway.server.engine.executor.over_ray.model_files import files_of_this_host

    assert seat.cache_dir is not None
    return replace(arguments, files=files_of_this_host(arguments.config.model, seat.meeting.own_address, seat.cache_dir))


def _say(link: Link, last_words: Failed) -> None:
    with suppress(OSError):  # nobody listens any more
        link.send_bytes(encode(last_words))


def _end_with(link: Link) -> None:
    """However the other side of ``link`` ends, and whatever this process waits for: it is closed then."""
    closed = select.poll()
    closed.register(link.fileno(), select.POLLRDHUP)  # a pair of sockets hangs up altogether, TCP one way

    def watch() -> None:
        closed.poll()
        time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="engine-watch").start()


if __name__ == "__main__":
    status = run_rank(Connection(int(sys.argv[1])))
    logging.shutdown()
    # As the engine: without the interpreter's own end, in which native threads may crash.
    os._exit(status)
