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
        self._behind: deque[tuple[StepHandle[Any], Callable[[], None]]] = deque()  # what waits for a step to be computed here

    def behind_those_under_way(self, act: Callable[[], None]) -> None:
        """Once they are computed here, and before the next step is; at once where there are none."""
        if self._under_way:
            self._behind.append((self._under_way[-1], act))
        else:
            act()

    def _begin(self, plan: Any) -> StepHandle[Any]:
        handle: StepHandle[Any] = StepHandle(partial(self._compute, plan))
        self._under_way.append(handle)
        return handle

    def _compute(self, plan: Any) -> Any:
        """Of the oldest step."""
        handle = self._under_way.popleft()
        result = self._here.submit(plan).result()
        while self._behind and self._behind[0][0] is handle:
            self._behind.popleft()[1]()
        return result

    def _change(self, message: Change, own: Callable[[], None], undo: Callable[[list[bool]], None] | None = None) -> None:
        """Behind the steps that the other ranks make it behind."""
        with self._ranks.explaining():
            while self._under_way:
                self._under_way[0].result()
        super()._change(message, own, undo)
