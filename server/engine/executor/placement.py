"""Where an engine's ranks run: which GPUs are theirs, and how those beside the engine are started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from headway.server.config.server import ServerConfig
from headway.server.distributed.meeting import Meeting
from headway.server.engine.device import check_gpus, num_devices
from headway.server.engine.executor.rank import Rank
from headway.server.engine.executor.rank_messages import RankArguments
from headway.server.engine.executor.rank_process import RankProcess


class Placement(Protocol):
    @property
    def gpu_index(self) -> int:
        """Rank 0's, among those that the engine's process sees."""
        ...

    def num_devices(self, device: torch.device) -> int | None:
        """GPUs that the engine can have; None on CPUs, which ranks share. Raises ConfigError where there are too few for all engines."""
        ...

    def start(self, arguments: Sequence[RankArguments]) -> tuple[Sequence[Rank], Meeting | None]:
        """A process for each, and where rank 0 meets them; None: in the directory of the arguments."""
        ...

    def release(self) -> None:
        """Once all ranks have ended. Safe to repeat."""
        ...


class HostPlacement:
    """Side by side on the engine's host."""

    def __init__(self, config: ServerConfig, engine: int) -> None:
        self._num_engines = config.data_parallel.data_parallel_size
        self._parallel = config.parallel
        self.gpu_index = config.parallel.gpu_index(engine)

    def num_devices(self, device: torch.device) -> int | None:
        check_gpus(device, self._num_engines, self._parallel)
        return num_devices(device, self._num_engines)

    def start(self, arguments: Sequence[RankArguments]) -> tuple[Sequence[Rank], Meeting | None]:
        return [RankProcess(each) for each in arguments], None

    def release(self) -> None:
        """Nothing was taken."""


@contextmanager
def placed_ranks(config: ServerConfig, engine: int) -> Iterator[Placement]:
    """For engine ``engine`` of the server; whoever ends its ranks releases it. Released here where the block raises. Raises ConfigError
    where there is no room."""
    if not config.parallel.uses_ray:
        yield HostPlacement(config, engine)
        return
    from headway.server.engine.executor.over_ray.placement import RayPlacement

    placement = RayPlacement(config)
    try:
        yield placement
    except BaseException:
        placement.release()
        raise
