"""The KV connector's workers of a model that is split: each rank moves what it has of each block, by the same orders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from headway.server.engine.executor.rank_messages import Move, Tell
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.executor.stages import StagesExecutor
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.kv.transfer.orders import Order, Report, Told
from headway.server.layers.forward import LayerWatcher


class RankedWorkers:
    """See WorkerSide. Its reports are those of every rank. A rank hears of a withdrawal before it hears of the step behind it."""

    def __init__(self, here: WorkerSide, ranks: Ranks) -> None:
        """``here`` is that of rank 0."""
        self._here = here
        self._ranks = ranks

    def order(self, orders: Sequence[Order]) -> None:
        told = [order for order in orders if isinstance(order, Told)]
        others: list[Order] = [order for order in orders if not isinstance(order, Told)]
        if told:
            self._ranks.tell(Tell(told))
            self._here.order(told)
        if others:
            self._ranks.tell(Move(others))
            self._here.order(others)

    def begin_step(self) -> LayerWatcher | None:
        """Each rank follows its own passes; this one's side is asked itself."""
        return self._here.begin_step()

    def take_reports(self) -> list[Report]:
        return self._here.take_reports() + self._ranks.take_reports()

    def close(self) -> None:
        """Those of the other ranks are closed as their processes end."""
        self._here.close()


class BehindSteps:
    """See WorkerSide. That of rank 0 of stages, which computes a step later than it hands it out: it carries orders out where the other
    ranks do, between the steps that they came between. Else what a step computes would be taken for what the one before it does, and a
    block be filled that a step before writes to. What others may read comes by itself, and holds at once, as for other ranks."""

    def __init__(self, here: WorkerSide, steps: StagesExecutor) -> None:
        self._here = here
        self._steps = steps

    def order(self, orders: Sequence[Order]) -> None:
        if all(isinstance(order, Told) for order in orders):
            self._here.order(orders)
        else:
            self._steps.behind_those_under_way(partial(self._here.order, orders))

    def begin_step(self) -> LayerWatcher | None:
        return self._here.begin_step()

    def take_reports(self) -> list[Report]:
        return self._here.take_reports()

    def close(self) -> None:
        self._here.close()
