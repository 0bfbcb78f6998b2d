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
    FromRank,
    Here,
    Join,
    LoadAdapter,
    RankArguments,
    Sized,
    Sleep,
    Start,
    Step,
    Stop,
    ToRank,
    UnloadAdapter,
    WakeUp,
    decode_to_rank,
    encode,
)
from headway.server.engine.executor.secure_link import Link
from headway.server.engine.model_rank import ModelRank, RankSetup
from headway.server.errors import RankDied, sentence_of
from headway.server.garbage import spare_long_lived

log = logging.getLogger(__name__)


def live(arguments: RankArguments, link: Link) -> None:
    """Until it is told to stop. Raises RankDied where another rank is gone, and whatever keeps this one from computing."""
    try:
        inbox = Inbox(link)
        _run(InlineExecutor(_joined(arguments, link, inbox).worker), link, inbox)
    except PeerLost as problem:
        raise RankDied(str(problem)) from problem


class Inbox:
    """What the engine says, read as soon as it comes: it may say more than a socket holds while this rank waits, in a step, for it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def take(self) -> ToRank:
        """Waits for the next one. Raises EOFError when the engine has ended."""
        message = self._messages.get()
        if message is None:
            raise EOFError
        return decode_to_rank(message)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._messages.put(self._link.recv_bytes())
        self._messages.put(None)


def _joined(arguments: RankArguments, link: Link, inbox: Inbox) -> ModelRank:
    device = choose_device(arguments.config.model.device, arguments.device_index)
    occupy(device)
    _send(link, Here())
    join = inbox.take()
    assert isinstance(join, Join)
    if device.type == "cpu":
        torch.set_num_threads(join.num_threads)
    groups = join_ranks(arguments.meeting, arguments.place, device)
    rank = ModelRank(RankSetup(arguments.config, arguments.files, join.plan, join.vocab_size, device, groups))
    _send(link, Sized(rank.num_blocks()))
    start = inbox.take()
    assert isinstance(start, Start)
    rank.start(start.num_blocks, start.max_model_len, make_sampling=None)
    rank.worker.warm_up()
    rank.worker.record_graphs()
    spare_long_lived()
    _send(link, Done())
    return rank


def _run(executor: InlineExecutor, link: Link, inbox: Inbox) -> None:
    while True:
        match inbox.take():
            case Step(plan=plan):
                executor.submit(plan)  # what it chose is taken in by the next
            case LoadAdapter(adapter=adapter):
                _answer(link, partial(executor.load_adapter, adapter))
            case UnloadAdapter(adapter_id=adapter_id):
                _answer(link, partial(executor.unload_adapter, adapter_id))
            case Sleep(level=level):
                _answer(link, partial(executor.sleep, level))
            case WakeUp(part=part):
                _answer(link, partial(executor.wake_up, part))
            case Stop():
                executor.shutdown()
                return


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
