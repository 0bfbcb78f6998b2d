"""The engine processes of a server, as their parent has them: started together, ended together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from headway.server.config.server import ServerConfig
from headway.server.engine.engine_process import EngineProcess
from headway.server.source.files import ModelFiles


class EngineProcesses:
    """As many as --data-parallel-size says. ``start`` may be called from any thread, before there is an event loop."""

    def __init__(self, directory: Path, num_engines: int) -> None:
        """``directory`` is where they meet the API processes."""
        self.all: Sequence[EngineProcess] = tuple(EngineProcess(directory, index, num_engines) for index in range(num_engines))

    def start(
        self, config: ServerConfig, files: ModelFiles, cache_dir: Path, tokenizer: Path | None, draft_files: ModelFiles | None
    ) -> None:
        """See EngineProcess.start."""
        for process in self.all:
            process.start(config, files, cache_dir, tokenizer, draft_files)

    def is_one(self, pid: int) -> bool:
        return any(process.pid == pid for process in self.all)

    def kill(self, patience_s: float) -> None:
        """Waits that long for all together to end by themselves, then makes sure. Safe to repeat."""
        deadline = time.monotonic() + patience_s
        for process in self.all:
            process.kill(max(deadline - time.monotonic(), 0.0))
