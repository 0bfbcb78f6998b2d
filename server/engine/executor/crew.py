"""All ranks of an engine while it is made: what they have to agree on before any can go on. Then they are its executor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headway.server.config.plan import Plan
from headway.server.config.server import ServerConfig, without_secrets
from headway.server.distributed.layout import Layout
from headway.server.distributed.meeting import Meeting
from headway.server.distributed.places import RankPlace
from headway.server.distributed.rendezvous import ALONE, RankGroups, join_ranks
from headway.server.engine.executor.base import Executor
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.executor.placement import Placement
from headway.server.engine.executor.processes import ProcessesExecutor
from headway.server.engine.executor.rank_messages import Done, Here, Join, RankArguments, Sized, Start, layout_of, place_of
from headway.server.engine.executor.rank_transfers import BehindSteps, RankedWorkers
from headway.server.engine.executor.ranks import Ranks
from headway.server.engine.executor.stages import StagesExecutor
from headway.server.engine.kv.shared_cache import SharedCache
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.worker import Worker
from headway.server.private_directory import private_directory
from headway.server.source.files import ModelFiles


class Crew:
    """Of one rank: there is nobody to agree with."""

    def join(self, plan: Plan, vocab_size: int, device: torch.device) -> RankGroups:
        """The others begin to load their weights. Computes with this rank's share of a CPU's threads from now on."""
        return ALONE

    def agree(self, num_blocks: int, block_bytes: int) -> SharedCache:
        """Of this one's blocks, for which it has room, and of what the others say. Waits until all have loaded their weights."""
        return SharedCache(num_blocks, block_bytes)

    def start(self, cache: SharedCache, max_model_len: int) -> None:
        """The others make their runners and compute for the first time, as this one has to."""

    def executor(self, worker: Worker) -> Executor:
        """Once all are ready."""
        return InlineExecutor(worker)

    def transfers(self, here: WorkerSide) -> WorkerSide:
        """The workers of the KV connector, of which this rank has ``here``. Once there is an executor."""
        return here

    @property
    def hosts(self) -> list[str | None]:
        """The addresses of the ranks' hosts, in their order; None: this host."""
        return [None]


class RankCrew(Crew):
    """Of this process, rank 0, and processes beside it."""

    def __init__(self, ranks: Ranks, place: RankPlace, layout: Layout, meeting: Meeting) -> None:
        self._ranks = ranks
        self._place = place
        self._layout = layout
        self._meeting = meeting
        self._stages: StagesExecutor | None = None

    def join(self, plan: Plan, vocab_size: int, device: torch.device) -> RankGroups:
        if self._place.num_ranks == 1:
            return ALONE
        num_threads = max(torch.get_num_threads() // self._place.num_ranks, 1)
        self._ranks.answers(Here)
        self._ranks.tell(Join(plan, vocab_size, num_threads))
        if device.type == "cpu":
            torch.set_num_threads(num_threads)
        groups = join_ranks(self._meeting, self._place, device, self._layout)
        self._ranks.give_groups(groups)
        return groups

    def agree(self, num_blocks: int, block_bytes: int) -> SharedCache:
        answers = self._ranks.answers(Sized)
        fewest = min([num_blocks, *(answer.num_blocks for answer in answers)])
        return SharedCache(fewest, block_bytes + sum(answer.block_bytes for answer in answers))

    def start(self, cache: SharedCache, max_model_len: int) -> None:
        self._ranks.tell(Start(cache, max_model_len))

    def executor(self, worker: Worker) -> Executor:
        self._ranks.answers(Done)
        here = InlineExecutor(worker)
        if self._place.num_stages == 1:
            return ProcessesExecutor(here, self._ranks)
        self._stages = StagesExecutor(here, self._ranks)
        return self._stages

    def transfers(self, here: WorkerSide) -> WorkerSide:
        return RankedWorkers(here if self._stages is None else BehindSteps(here, self._stages), self._ranks)

    @property
    def hosts(self) -> list[str | None]:
        return [None, *self._ranks.hosts]


@contextmanager
def gathered_crew(config: ServerConfig, files: ModelFiles, engine: int, placement: Placement) -> Iterator[Crew]:
    """For as long as engine ``engine`` of the server is made, with ranks where ``placement`` has room for them. Where that fails the other
    ranks end, and what is raised is the first cause."""
    if not config.parallel.has_ranks:
        yield Crew()
        return
    with private_directory() as directory:
        lean = without_secrets(config)
        others = [RankArguments(lean, files, engine, rank, directory) for rank in range(1, config.parallel.num_ranks)]
        started, meeting = placement.start(others)
        ranks = Ranks(started, placement.release)
        try:
            with ranks.explaining():
                yield RankCrew(ranks, place_of(config.parallel, 0), layout_of(config), meeting or directory)
        except BaseException:
            ranks.end(patience_s=0)
            raise
