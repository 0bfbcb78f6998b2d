"""Where the process of a rank beside the engine begins, and its exit status: `python -m headway.server.engine.executor.rank_entry FD`."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from headway.server.children import ignore_signals
from headway.server.engine.executor.rank_messages import Failed, RankArguments, encode
from headway.server.errors import HeadwayError, RankDied, sentence_of
from headway.server.log import log_uncaught_in_threads
from headway.server.log_setup import set_up_logging

log = logging.getLogger(__name__)


def run_rank(link: Connection) -> int:
    """Returns the exit status: 0 told to end, 2 a wrong option or model, 1 anything else."""
    ignore_signals()
    _die_with_engine(link)
    log_uncaught_in_threads()
    arguments: RankArguments = link.recv()
    try:
        set_up_logging(arguments.config.logs, arguments.role)
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


def _say(link: Connection, last_words: Failed) -> None:
    with suppress(OSError):  # nobody listens any more
        link.send_bytes(encode(last_words))


def _die_with_engine(link: Connection) -> None:
    """However the engine ends, and whatever this process waits for: the other end of ``link`` is closed then."""
    closed = select.poll()
    closed.register(link.fileno(), 0)  # no event is asked for: that it is hung up is told anyway

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
