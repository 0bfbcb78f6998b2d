"""The life of a rank beside the engine: made step by step with the others, then a step for each that the engine runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

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
    Move,
    Moved,
    RankArguments,
    Sized,
    Sleep,
    Start,
    Step,
    Stop,
    UnloadAdapter,
    WakeUp,
    decode_to_rank,
    encode,
    layout_of,
)
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.model_rank import ModelRank, RankSetup
from headway.server.errors import RankDied, sentence_of
from headway.server.garbage import spare_long_lived

log = logging.getLogger(__name__)

_REPORT_S = 0.005  # between two looks at what the KV connector's worker has done


def live(arguments: RankArguments, link: Connection) -> None:
    """Until it is told to stop. Raises RankDied where another rank is gone, and whatever keeps this one from computing."""
    try:
        rank = _joined(arguments, link)
        _run(InlineExecutor(rank.worker), rank.transfers, link)
    except PeerLost as problem:
        raise RankDied(str(problem)) from problem


def _joined(arguments: RankArguments, link: Connection) -> ModelRank:
    device = choose_device(arguments.config.model.device, arguments.device_index)
    occupy(device)
    _send(link, Here())
    join = decode_to_rank(link.recv_bytes())
    assert isinstance(join, Join)
    if device.type == "cpu":
        torch.set_num_threads(join.num_threads)
    group = join_ranks(arguments.directory, arguments.rank, arguments.size, device, layout_of(arguments.config))
    setup = RankSetup(arguments.config, arguments.files, join.plan, join.vocab_size, device, group, arguments.engine)
    rank = ModelRank(setup)
    _send(link, Sized(rank.num_blocks()))
    start = decode_to_rank(link.recv_bytes())
    assert isinstance(start, Start)
    rank.start(start.num_blocks, start.max_model_len, make_sampling=None)
    rank.worker.warm_up()
    rank.worker.record_graphs()
    spare_long_lived()
    _send(link, Done())
    return rank


def _run(executor: InlineExecutor, transfers: WorkerSide | None, link: Connection) -> None:
    while True:
        if transfers is not None:
            _report_until_told(transfers, link)
        message = decode_to_rank(link.recv_bytes())
        match message:
            case Move(orders=orders):
                assert transfers is not None, "orders come with a connector"
                transfers.order(orders)
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
                if transfers is not None:
                    transfers.close()
                executor.shutdown()
                return


def _report_until_told(transfers: WorkerSide, link: Connection) -> None:
    """Until there is a message."""
    while True:
        if reports := transfers.take_reports():
            _send(link, Moved(reports))
        if link.poll(_REPORT_S):
            return


def _answer(link: Connection, change: Callable[[], None]) -> None:
    refusal = None
    try:
        change()
    except PeerLost:
        raise
    except Exception as problem:  # files of a user's come in here; the engine hears of it, and decides
        log.warning("A change was refused", exc_info=problem)
        refusal = sentence_of(problem)
    _send(link, Done(refusal))


def _send(link: Connection, message: FromRank) -> None:
    link.send_bytes(encode(message))
