"""The engine process: sockets around an EngineCore, and honest last words when it dies."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headway.server.children import die_with_parent, ignore_signals
from headway.server.config.server import ServerConfig
from headway.server.engine.links import IDLE_POLL_MS, ApiClient, EngineLinks
from headway.server.engine.messages import (
    AbortRequests,
    AddAdapter,
    AddClient,
    AddPoolRequests,
    AddRequest,
    CallDone,
    Died,
    DropClient,
    Phase,
    PinAdapter,
    Ready,
    RemoveAdapter,
    ResetPrefixCache,
    Sleep,
    SleepChanged,
    Stop,
    WakeUp,
)
from headway.server.errors import AdapterError, HeadwayError, RankDied, SleepConflict, sentence_of
from headway.server.garbage import spare_long_lived
from headway.server.log import log_uncaught_in_threads
from headway.server.log_setup import set_up_logging
from headway.server.source.files import ModelFiles

if TYPE_CHECKING:
    from headway.server.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineArguments:
    """What an engine process is started with. ``config`` has its secrets removed: the engine needs none."""

    config: ServerConfig
    index: int  # among the engines of the server
    files: ModelFiles
    directory: Path  # where the API processes have their sockets
    cache_dir: Path
    tokenizer: Path | None  # that of --tokenizer; None: the model's own
    draft_files: ModelFiles | None  # of the model that drafts, where one does

    @property
    def role(self) -> str:
        """The engine's name in the log."""
        return self.config.data_parallel.engine_name(self.index)

    @property
    def origin(self) -> str:
        """What goes before the cause of its death."""
        return f"in engine {self.index}: " if self.config.data_parallel.data_parallel_size > 1 else ""

    def load_tokenizer(self) -> Tokenizer:
        from headway.server.text.tokenizer import load_tokenizer

        return load_tokenizer(self.files, None if self.tokenizer is None else str(self.tokenizer), self.cache_dir)


def run_engine(arguments: EngineArguments) -> None:
    """Entry point of the process. Exit status: 0 stopped, 2 a wrong option or model, 1 anything else."""
    ignore_signals()
    die_with_parent()
    log_uncaught_in_threads()
    links = EngineLinks(arguments.directory, arguments.index, arguments.config.network.api_server_count)
    status = 0
    try:
        set_up_logging(arguments.config.logs, arguments.role)
        _serve(arguments, links)
    except Exception as problem:  # the process edge: the cause goes to the parent, the traceback to the log
        words = last_words(arguments, problem)
        links.send_to_all(words)
        status = 2 if words.is_user_error else 1
    links.close()
    # Without interpreter shutdown: threads of native libraries have been seen to crash there and hide the status.
    os._exit(status)


def last_words(arguments: EngineArguments, problem: Exception) -> Died:
    """Of an engine that ``problem`` ended; the log gets what is of use there."""
    if isinstance(problem, HeadwayError) and not isinstance(problem, RankDied):
        return Died(str(problem), is_user_error=True)
    if isinstance(problem, RankDied):  # its own log has the traceback, if there is one
        log.error("%s", problem)
    else:
        log.error("The engine broke", exc_info=problem)
    return Died(f"{arguments.origin}{sentence_of(problem)}")


def _serve(arguments: EngineArguments, links: EngineLinks) -> None:
    def enter(phase: str) -> None:
        links.send_to_all(Phase(phase, time.monotonic()))

    enter("importing torch")
    from headway.server.engine.build import build_engine

    core = build_engine(arguments.config, arguments.files, enter, arguments.load_tokenizer, arguments.index, arguments.draft_files)
    core.emit_early(links.send_step)
    core.watch_sleep(lambda state: links.send_to_all(SleepChanged(state)))
    ready = Ready(core.info, time.monotonic())
    links.send_to_all(ready)
    spare_long_lived()
    was_busy = False
    while True:
        for client, message in links.receive(not core.has_work or core.waits_for_others, core.patience_ms or IDLE_POLL_MS):
            match message:
                case AddRequest(request=request):
                    core.add_request(request)
                case AddPoolRequests(requests=requests):
                    for text in requests:
                        core.add_request(text)
                case AbortRequests(request_ids=ids):
                    core.abort(ids)
                case AddAdapter(call_id=call_id, adapter=adapter, preload=preload, is_pinned=is_pinned):
                    core.add_adapter(adapter, preload, is_pinned, partial(_answer, client, call_id))
                case PinAdapter(call_id=call_id, adapter_id=adapter_id, preload=preload, is_pinned=is_pinned):
                    core.pin_adapter(adapter_id, preload, is_pinned, partial(_answer, client, call_id))
                case RemoveAdapter(call_id=call_id, adapter_id=adapter_id):
                    _answer(client, call_id, _attempt(partial(core.remove_adapter, adapter_id)))
                case ResetPrefixCache(call_id=call_id, preempt_running=preempt_running):
                    client.send(CallDone(call_id, is_complete=core.reset_prefix_cache(preempt_running)))
                case Sleep(call_id=call_id, level=level, mode=mode):
                    core.sleep(level, mode, partial(_answer, client, call_id))
                case WakeUp(call_id=call_id, parts=parts):
                    _answer(client, call_id, _attempt(partial(core.wake_up, parts)))
                case DropClient(index=index):
                    core.abort(links.drop(index))
                case AddClient(index=index):
                    newcomer = links.add(index)
                    newcomer.send(ready)
                    newcomer.send(SleepChanged(core.sleep_state))
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
        core.settle()


def _attempt(change: Callable[[], None]) -> Exception | None:
    """What kept ``change`` from being made. A user's files come in here: whatever is wrong with them must not end the engine."""
    try:
        change()
    except Exception as problem:
        return problem
    return None


def _answer(client: ApiClient, call_id: int, problem: Exception | None) -> None:
    if problem is None:
        client.send(CallDone(call_id))
    elif isinstance(problem, AdapterError | SleepConflict):
        client.send(CallDone(call_id, str(problem)))
    else:
        log.error("A call to the engine failed", exc_info=problem)
        client.send(CallDone(call_id, sentence_of(problem), has_failed=True))
