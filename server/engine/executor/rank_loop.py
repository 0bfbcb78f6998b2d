"""The life of a rank beside the engine: made step by step with the others, then a step for each that the engine runs."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch

from headway.server.distributed.groups import PeerLost
from headway.server.distributed.rendezvous import join_ranks
from headway.server.engine.device import choose_device, occupy
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.executor.rank_messages import (
    Done,
    DropAdapter,
    FromRank,
    Here,
    Join,
    LoadAdapter,
    Move,
    Moved,
    RankArguments,
    ReadAdapter,
    Sized,
    Sleep,
    Start,
    Step,
    Stop,
    Tell,
    ToRank,
    UnloadAdapter,
    WakeUp,
    decode_to_rank,
    encode,
    layout_of,
)
from headway.server.engine.executor.secure_link import Link
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.kv.transfer.orders import Told
from headway.server.engine.model_rank import ModelRank, RankSetup
from headway.server.errors import RankDied, sentence_of
from headway.server.garbage import spare_long_lived

log = logging.getLogger(__name__)

_REPORT_S = 0.005  # between two looks at what the KV connector's worker has done


def live(arguments: RankArguments, link: Link) -> None:
    """Until it is told to stop. Raises RankDied where another rank is gone, and whatever keeps this one from computing."""
    try:
        inbox = Inbox(link)
        rank = _joined(arguments, link, inbox)
        _run(InlineExecutor(rank.worker), rank.transfers, link, inbox)
    except PeerLost as problem:
        raise RankDied(str(problem)) from problem


class Inbox:
    """What the engine says, read as soon as it comes: it may say more than a socket holds while this rank waits, in a step, for it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._messages: queue.SimpleQueue[ToRank | None] = queue.SimpleQueue()
        self._told: Callable[[list[Told]], None] | None = None
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def hear(self, told: Callable[[list[Told]], None]) -> None:
        """Calls ``told``, in a thread of its own, with what others may read from now on. Before anything is."""
        self._told = told

    def take(self, timeout_s: float | None = None) -> ToRank:
        """Waits for the next one of the others. Raises queue.Empty when it takes longer, EOFError when the engine has ended."""
        message = self._messages.get(timeout=timeout_s)
        if message is None:
            raise EOFError
        return message

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                message = decode_to_rank(self._link.recv_bytes())
                if isinstance(message, Tell):
                    assert self._told is not None, "nothing is read of a rank without a connector"
                    self._told(message.orders)
                else:
                    self._messages.put(message)
        self._messages.put(None)


def _joined(arguments: RankArguments, link: Link, inbox: Inbox) -> ModelRank:
    device = choose_device(arguments.config.model.device, arguments.device_index)
    occupy(device)
    _send(link, Here())
    join = inbox.take()
    assert isinstance(join, Join)
    if device.type == "cpu":
        torch.set_num_threads(join.num_threads)
    groups = join_ranks(arguments.meeting, arguments.place, device, layout_of(arguments.config))
    setup = RankSetup(
        arguments.config,
        arguments.files,
        join.plan,
        join.vocab_size,
        device,
        groups,
        arguments.engine,
        host=arguments.host_elsewhere,
    )
    rank = ModelRank(setup)
    _send(link, Sized(rank.num_blocks(), rank.worker.bytes_per_block))
    start = inbox.take()
    assert isinstance(start, Start)
    rank.start(start.cache, start.max_model_len, make_sampling=None)
    rank.warm_up()
    rank.record_graphs()
    spare_long_lived()
    if rank.transfers is not None:
        inbox.hear(rank.transfers.order)
    _send(link, Done())
    return rank


def _run(executor: InlineExecutor, transfers: WorkerSide | None, link: Link, inbox: Inbox) -> None:
    while True:
        message = inbox.take() if transfers is None else _next_while_reporting(transfers, link, inbox)
        match message:
            case Move(orders=orders):
                assert transfers is not None, "orders come with a connector"
                transfers.order(orders)
            case Step(plan=plan):
                executor.submit(plan)  # what it chose is taken in by the next
            case ReadAdapter(adapter=adapter):
                executor.read_adapter(adapter)
            case DropAdapter(adapter_id=adapter_id):
                executor.drop_adapter(adapter_id)
            case LoadAdapter(adapter_id=adapter_id):
                _answer(link, partial(executor.load_adapter, adapter_id))
            case UnloadAdapter(adapter_id=adapter_id):
                _answer(link, partial(executor.unload_adapter, adapter_id))
            case Sleep(level=level):
                _answer(link, partial(executor.sleep, level))
            case WakeUp(part=part):
                _answer(link, partial(executor.wake_up, part))
            case Stop():
                if transfers is not None:
                    transfers.close()
                executor.shutdown()
                return


def _next_while_reporting(transfers: WorkerSide, link: Link, inbox: Inbox) -> ToRank:
    while True:
        if reports := transfers.take_reports():
            _send(link, Moved(reports))
        with suppress(queue.Empty):
            return inbox.take(_REPORT_S)


def _answer(link: Link, change: Callable[[], None]) -> None:
    refusal = None
    try:
        change()
    except PeerLost:
        raise
    except Exception as problem:  # files of a user's come in here; the engine hears of it, and decides
        log.warning("A change was refused", exc_info=problem)
        refusal = sentence_of(problem)
    _send(link, Done(refusal))


def _send(link: Link, message: FromRank) -> None:
    link.send_bytes(encode(message))
