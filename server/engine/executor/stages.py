"""The executor of a model whose layers are cut into stages: rank 0 has the last one, and each stage a step of its own under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.executor.processes import ProcessesExecutor
from headway.server.engine.executor.rank_messages import Change
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.handle import StepHandle


class StagesExecutor(ProcessesExecutor):
    """See Executor. A step is handed to the other ranks at once, and computed here when its result is asked for: the first stage is set
    going with the next steps while this process would only wait for the stages between."""

    def __init__(self, here: InlineExecutor, ranks: Ranks) -> None:
        super().__init__(here, ranks)
        self._under_way: deque[StepHandle[Any]] = deque()

    def _begin(self, plan: Any) -> StepHandle[Any]:
        handle: StepHandle[Any] = StepHandle(partial(self._compute, plan))
        self._under_way.append(handle)
        return handle

    def _compute(self, plan: Any) -> Any:
        """Of the oldest step."""
        self._under_way.popleft()
        return self._here.submit(plan).result()

    def _change(self, message: Change, own: Callable[[], None], undo: Callable[[list[bool]], None] | None = None) -> None:
        """Behind the steps that the other ranks make it behind."""
        with self._ranks.explaining():
            while self._under_way:
                self._under_way[0].result()
        super()._change(message, own, undo)
