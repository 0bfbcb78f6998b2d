"""When ranks hear of a KV connector's orders; and rank 0 of stages, which computes steps later than it hands them out, carries them out."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from typing import Any

from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.executor.rank_loop import Inbox
from headway.server.engine.executor.rank_messages import Move, Stop, Tell, encode
from headway.server.engine.executor.rank_transfers import BehindSteps, RankedWorkers
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.executor.stages import StagesExecutor
from headway.server.engine.handle import StepHandle
from headway.server.engine.kv.transfer.orders import Computing, Load, MoreOffered, Offer, Order, Save, Told, Withdraw
from headway.server.engine.worker import Worker


class Here(InlineExecutor):
    """Rank 0's executor and worker of the connector in one, which writes down what it is asked for."""

    def __init__(self) -> None:
        super().__init__(worker=Worker.__new__(Worker))
        self.done: list[Any] = []

    def submit(self, plan: Any) -> StepHandle[Any]:
        self.done.append(plan)
        return StepHandle.computed(plan)

    def order(self, orders: Sequence[Order]) -> None:
        self.done += orders

    def begin_step(self) -> None: ...

    def take_reports(self) -> list[Any]:
        return []

    def close(self) -> None: ...


def test_an_order_is_carried_out_between_the_steps_that_it_came_between() -> None:
    here = Here()
    executor = StagesExecutor(here, Ranks([]))
    workers = BehindSteps(here, executor)
    computing = [Computing("t", number, [number]) for number in range(3)]
    workers.order([Save(1, [])])
    assert here.done == [Save(1, [])]  # nothing is under way
    handles = []
    for number in range(3):
        workers.order([computing[number]])
        handles.append(executor.submit(f"step {number}"))
    workers.order([Load(2, []), Save(3, [])])
    assert here.done == [Save(1, []), computing[0]]
    for handle in handles:
        handle.result()
    expected = [Save(1, []), computing[0], "step 0", computing[1], "step 1", computing[2], "step 2", Load(2, []), Save(3, [])]
    assert here.done == expected


def test_what_others_may_read_holds_at_once() -> None:
    here = Here()
    executor = StagesExecutor(here, Ranks([]))
    workers = RankedWorkers(BehindSteps(here, executor), Ranks([]))
    handle = executor.submit("step")
    told: list[Order] = [Offer("t", b"", [], is_whole=False), MoreOffered("t", [1], is_whole=True), Withdraw("u")]
    workers.order([told[0], Load(1, []), *told[1:]])
    assert here.done == told
    handle.result()
    assert here.done == [*told, "step", Load(1, [])]


def test_a_rank_in_the_middle_of_a_step_hears_at_once_what_others_may_read() -> None:
    ours, theirs = multiprocessing.Pipe()
    inbox = Inbox(theirs)
    told: queue.SimpleQueue[list[Told]] = queue.SimpleQueue()
    inbox.hear(told.put)
    for message in (Move([Load(1, [])]), Tell([Withdraw("t")]), Stop()):
        ours.send_bytes(encode(message))
    assert told.get(timeout=60) == [Withdraw("t")]
    assert [inbox.take(10), inbox.take(10)] == [Move([Load(1, [])]), Stop()]
    ours.close()
