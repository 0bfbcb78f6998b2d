"""The engine process: sockets around an EngineCore, and honest last words when it dies."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import zmq

from headway.server.config.server import ServerConfig
from headway.server.engine.messages import (
    AbortRequests,
    AddRequest,
    CallDone,
    Died,
    FromEngine,
    LoadAdapter,
    Phase,
    Ready,
    ResetPrefixCache,
    Sleep,
    SleepChanged,
    Stop,
    UnloadAdapter,
    WakeUp,
    decode_to_engine,
    encode,
)
from headway.server.errors import AdapterError, HeadwayError, SleepConflict, sentence_of
from headway.server.log import log_uncaught_in_threads
from headway.server.log_setup import set_up_logging
from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)

_IDLE_POLL_MS = 1000


@dataclass(frozen=True)
class EngineArguments:
    """What an engine process is started with. ``config`` has its secrets removed: the engine needs none."""

    config: ServerConfig
    files: ModelFiles
    inbox: str  # ipc addresses
    outbox: str


class EngineLink:
    """The engine's ends of the two sockets."""

    def __init__(self, inbox: str, outbox: str) -> None:
        self._context = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._outbox = self._context.socket(zmq.PUSH)
        self._outbox.setsockopt(zmq.LINGER, 2000)
        for end in (self._inbox, self._outbox):
            end.setsockopt(zmq.RCVHWM, 0)
            end.setsockopt(zmq.SNDHWM, 0)
        self._inbox.connect(inbox)
        self._outbox.connect(outbox)

    def send(self, message: FromEngine) -> None:
        self._outbox.send(encode(message), copy=False)

    def receive(self, wait: bool) -> list[bytes]:
        """All messages that are there; with ``wait`` sleeps for the first one, up to a second."""
        if wait and not self._inbox.poll(_IDLE_POLL_MS):
            return []
        messages: list[bytes] = []
        while True:
            try:
                messages.append(self._inbox.recv(zmq.NOBLOCK))
            except zmq.Again:
                return messages

    def close(self) -> None:
        self._inbox.close(0)
        self._outbox.close()
        self._context.term()


def run_engine(arguments: EngineArguments) -> None:
    """Entry point of the process. Exit status: 0 stopped, 2 a wrong option or model, 1 anything else."""
    # Both reach the whole group (ctrl-C, systemd, kill -- -PGID); the API process decides, and its end is watched below.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    log_uncaught_in_threads()
    link = EngineLink(arguments.inbox, arguments.outbox)
    status = 0
    try:
        set_up_logging(arguments.config.logs, "engine")
        _serve(arguments, link)
    except HeadwayError as problem:
        link.send(Died(str(problem), is_user_error=True))
        status = 2
    except Exception as problem:  # the process edge: the cause goes to the parent, the traceback to the log
        log.exception("The engine broke")
        link.send(Died(sentence_of(problem)))
        status = 1
    link.close()
    # Without interpreter shutdown: threads of native libraries have been seen to crash there and hide the status.
    os._exit(status)


def _serve(arguments: EngineArguments, link: EngineLink) -> None:
    def enter(phase: str) -> None:
        link.send(Phase(phase, time.monotonic()))

    enter("importing torch")
    from headway.server.engine.build import build_engine

    core = build_engine(arguments.config, arguments.files, on_phase=enter)
    core.watch_sleep(lambda state: link.send(SleepChanged(state)))
    link.send(Ready(core.info, time.monotonic()))
    was_busy = False
    while True:
        for data in link.receive(wait=not core.has_work):
            message = decode_to_engine(data)
            match message:
                case AddRequest(request=request):
                    core.add_request(request)
                case AbortRequests(request_ids=ids):
                    core.abort(ids)
                case LoadAdapter(call_id=call_id, adapter=adapter):
                    _answer(link, call_id, _attempt(partial(core.load_adapter, adapter)))
                case UnloadAdapter(call_id=call_id, adapter_id=adapter_id):
                    _answer(link, call_id, _attempt(partial(core.unload_adapter, adapter_id)))
                case ResetPrefixCache(call_id=call_id, preempt_running=preempt_running):
                    link.send(CallDone(call_id, is_complete=core.reset_prefix_cache(preempt_running)))
                case Sleep(call_id=call_id, level=level, mode=mode):
                    core.sleep(level, mode, partial(_answer, link, call_id))
                case WakeUp(call_id=call_id, parts=parts):
                    _answer(link, call_id, _attempt(partial(core.wake_up, parts)))
                case Stop():
                    core.abort_all()
                    link.send(core.step())
                    core.shutdown()
                    return
        if core.has_work:
            link.send(core.step())
            was_busy = True
        elif was_busy:
            core.check_idle()
            was_busy = False
        core.settle()


def _attempt(change: Callable[[], None]) -> Exception | None:
    """What kept ``change`` from being made. A user's files come in here: whatever is wrong with them must not end the engine."""
    try:
        change()
    except Exception as problem:
        return problem
    return None


def _answer(link: EngineLink, call_id: int, problem: Exception | None) -> None:
    if problem is None:
        link.send(CallDone(call_id))
    elif isinstance(problem, AdapterError | SleepConflict):
        link.send(CallDone(call_id, str(problem)))
    else:
        log.error("A call to the engine failed", exc_info=problem)
        link.send(CallDone(call_id, sentence_of(problem), has_failed=True))


def _die_with_parent() -> None:
    """Ends this process when the API process is gone, however it went: an orphan would keep the device."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
