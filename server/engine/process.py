"""The engine process: sockets around an EngineCore, and honest last words when it dies."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headway.server.children import die_with_parent, ignore_signals
from headway.server.config.server import ServerConfig
from headway.server.engine.links import EngineLinks
from headway.server.engine.messages import (
    AbortRequests,
    AdapterDone,
    AddClient,
    AddRequest,
    Died,
    DropClient,
    LoadAdapter,
    Phase,
    Ready,
    ResetPrefixCache,
    Stop,
    UnloadAdapter,
)
from headway.server.errors import AdapterError, HeadwayError, sentence_of
from headway.server.log import configure_logging, log_uncaught_in_threads
from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineArguments:
    """What an engine process is started with. ``config`` has its secrets removed: the engine needs none."""

    config: ServerConfig
    files: ModelFiles
    directory: Path  # where the API processes have their sockets


def run_engine(arguments: EngineArguments) -> None:
    """Entry point of the process. Exit status: 0 stopped, 2 a wrong option or model, 1 anything else."""
    ignore_signals()
    die_with_parent()
    logs = arguments.config.logs
    configure_logging(logs.log_level, role="engine", as_json=logs.is_json)
    log_uncaught_in_threads()
    links = EngineLinks(arguments.directory, arguments.config.network.api_server_count)
    status = 0
    try:
        _serve(arguments, links)
    except HeadwayError as problem:
        links.send_to_all(Died(str(problem), is_user_error=True))
        status = 2
    except Exception as problem:  # the process edge: the cause goes to the parent, the traceback to the log
        log.exception("The engine broke")
        links.send_to_all(Died(sentence_of(problem)))
        status = 1
    links.close()
    # Without interpreter shutdown: threads of native libraries have been seen to crash there and hide the status.
    os._exit(status)


def _serve(arguments: EngineArguments, links: EngineLinks) -> None:
    def enter(phase: str) -> None:
        links.send_to_all(Phase(phase, time.monotonic()))

    enter("importing torch")
    from headway.server.engine.build import build_engine

    core = build_engine(arguments.config, arguments.files, on_phase=enter)
    ready = Ready(core.info, time.monotonic())
    links.send_to_all(ready)
    was_busy = False
    while True:
        for client, message in links.receive(wait=not core.has_work):
            match message:
                case AddRequest(request=request):
                    core.add_request(request)
                case AbortRequests(request_ids=ids):
                    core.abort(ids)
                case ResetPrefixCache():
                    core.reset_prefix_cache()
                case LoadAdapter(call_id=call_id, adapter=adapter):
                    client.send(_done(call_id, partial(core.load_adapter, adapter)))
                case UnloadAdapter(call_id=call_id, adapter_id=adapter_id):
                    client.send(_done(call_id, partial(core.unload_adapter, adapter_id)))
                case DropClient(index=index):
                    core.abort(links.drop(index))
                case AddClient(index=index):
                    links.add(index).send(ready)
                case Stop():
                    core.abort_all()
                    links.send_step(core.step())
                    core.shutdown()
                    return
        if core.has_work:
            links.send_step(core.step())
            was_busy = True
        elif was_busy:
            core.check_idle()
            was_busy = False


def _done(call_id: int, change: Callable[[], None]) -> AdapterDone:
    try:
        change()
    except AdapterError as refusal:
        return AdapterDone(call_id, str(refusal))
    except Exception as problem:  # a user's file: whatever is wrong with it must not end the engine
        log.exception("An adapter could not be loaded")
        return AdapterDone(call_id, f"The adapter can't be loaded: {sentence_of(problem)}")
    return AdapterDone(call_id)
