"""The executor of several devices of one host: rank 0 computes in the engine process itself, the others in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from headway.server.distributed.groups import PeerLost
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.executor.rank_messages import (
    Change,
    Done,
    DropAdapter,
    LoadAdapter,
    ReadAdapter,
    Sleep,
    Step,
    UnloadAdapter,
    WakeUp,
)
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.handle import StepHandle
from headway.server.errors import AdapterError
from headway.server.types import AdapterRef, Grammar, SleepPart


class ProcessesExecutor:
    """See Executor. A step that breaks on any rank ends them all: no row is computed again alone, since the others would wait for their
    parts of the one that broke."""

    def __init__(self, here: InlineExecutor, ranks: Ranks) -> None:
        """``here`` is that of rank 0."""
        self._here = here
        self._ranks = ranks

    def submit(self, plan: Any) -> StepHandle[Any]:
        with self._ranks.explaining():
            self._ranks.tell(Step(plan))
            return StepHandle(partial(self._result, self._begin(plan)))

    def compile_grammar(self, grammar: Grammar) -> Future[Any]:
        """For rank 0, which samples."""
        return self._here.compile_grammar(grammar)

    def read_adapter(self, adapter: AdapterRef) -> Future[None]:
        """What another rank can't read shows when it is to load it."""
        self._ranks.tell(ReadAdapter(adapter))
        return self._here.read_adapter(adapter)

    def drop_adapter(self, adapter_id: int) -> None:
        self._ranks.tell(DropAdapter(adapter_id))
        self._here.drop_adapter(adapter_id)

    def load_adapter(self, adapter_id: int) -> None:
        self._change(LoadAdapter(adapter_id), partial(self._here.load_adapter, adapter_id), partial(self._undo_load, adapter_id))

    def unload_adapter(self, adapter_id: int) -> None:
        self._change(UnloadAdapter(adapter_id), partial(self._here.unload_adapter, adapter_id))

    def sleep(self, level: int) -> None:
        self._change(Sleep(level), partial(self._here.sleep, level))

    def wake_up(self, part: SleepPart) -> None:
        self._change(WakeUp(part), partial(self._here.wake_up, part))

    def check_alive(self) -> None:
        self._ranks.check()

    def shutdown(self) -> None:
        self._ranks.end()
        self._here.shutdown()

    def _begin(self, plan: Any) -> StepHandle[Any]:
        return self._here.submit(plan)

    def _result(self, handle: StepHandle[Any]) -> Any:
        with self._ranks.explaining():
            return handle.result()

    def _change(self, message: Change, own: Callable[[], None], undo: Callable[[list[bool]], None] | None = None) -> None:
        """Made on every rank or on none, else raises RankDied. ``undo`` gets whether each rank, this one first, has made it."""
        with self._ranks.explaining():
            self._ranks.tell(message)
            problem = _attempt(own)
            refusals = [answer.refusal for answer in self._ranks.answers(Done)]
        if problem is None and not any(refusals):
            return
        if problem is not None and all(refusals):
            raise problem
        if undo is None:
            told = problem or next(filter(None, refusals))
            raise self._ranks.fail(f"the ranks are not in the same state any more, since one of them refused a change: {told}")
        undo([problem is None, *(refusal is None for refusal in refusals)])
        raise AdapterError(str(problem or next(filter(None, refusals))))

    def _undo_load(self, adapter_id: int, is_loaded: list[bool]) -> None:
        """The slot is free again where it was taken, and the next adapter gets the same one everywhere."""
        if is_loaded[0]:
            self._here.unload_adapter(adapter_id)
        self._ranks.tell(UnloadAdapter(adapter_id))
        self._ranks.answers(Done)  # refused by those that had not loaded it


def _attempt(change: Callable[[], None]) -> Exception | None:
    try:
        change()
    except PeerLost:
        raise
    except Exception as problem:
        return problem
    return None
