"""The leader's side of the other API processes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from headway.server.api_processes.arguments import FollowerArguments
from headway.server.api_processes.entry import run_follower
from headway.server.api_processes.orders import EngineEnded, FilesFound, Preparing
from headway.server.api_processes.serving import niceness
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.engine.data_parallel.client import DataParallelClient
from headway.server.siblings.listeners import share
from headway.server.siblings.members import Members, launch
from headway.server.siblings.orders import BeginDrain
from headway.server.source.files import ModelFiles


class Followers:
    """All API processes but this one; none where --api-server-count is 1. ``begin`` comes before the event loop, the rest is on it.

    ``members`` are their lives, and say when it is no use to go on.
    """

    def __init__(
        self,
        config: ServerConfig,
        directory: Path,
        cache_dir: Path,
        listeners: list[socket.socket],
        counts: Counts,
        telemetry: Mapping[str, str],
    ) -> None:
        """``telemetry``: OpenTelemetry's variables."""
        self._config = config
        self._directory = directory
        self._cache_dir = cache_dir
        self._listeners = listeners  # the leader's own
        self._counts = counts
        self._telemetry = telemetry
        self._niceness = niceness()
        self.members = Members("API process", directory, counts, self._launch)

    def begin(self) -> None:
        if self._counts.num_processes > 1:
            for listener in self._listeners:
                share(listener)
        self.members.begin()

    def keep(self, engines: DataParallelClient) -> None:
        """From now on another process takes the place of one that ends."""
        self.members.keep(engines.drop_client, engines.add_client)

    def _launch(self, index: int) -> BaseProcess:
        def arguments(listeners: list[socket.socket]) -> FollowerArguments:
            return FollowerArguments(index, self._config, self._directory, self._cache_dir, listeners, self._telemetry, self._niceness)

        return launch(f"headway-api-{index}", run_follower, arguments, self._listeners)

    def tell_phase(self, phase: str) -> None:
        self.members.tell(Preparing(phase))

    def tell_files(self, files: ModelFiles) -> None:
        self.members.tell_later_ones_too(FilesFound(files))

    def tell_engine_end(self, cause: str) -> None:
        self.members.tell(EngineEnded(cause))

    def begin_drain(self) -> None:
        self.members.tell(BeginDrain())
