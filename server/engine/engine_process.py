"""The engine's process as its parent has it: started, watched, ended, and how it ended."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from pathlib import Path

from headway.server.children import exited, how_it_ended
from headway.server.config.server import ServerConfig, without_secrets
from headway.server.engine.process import EngineArguments, run_engine
from headway.server.machine import num_oom_kills
from headway.server.source.files import ModelFiles

_ADVICE = {
    -signal.SIGKILL: ": lower --kv-cache-memory-bytes or use a larger machine",
    # A mapped page that its file no longer has. Nothing else that the engine maps can become shorter.
    -signal.SIGBUS: ", most often because a weight file was cut off or overwritten while it was read: copy the model again, and leave its "
    "files alone while it is loaded",
}


class EngineProcess:
    """Engine ``index`` of a server. ``directory`` is where it meets the API processes. ``start`` may be called from any thread, before
    there is an event loop."""

    def __init__(self, directory: Path, index: int = 0, num_engines: int = 1) -> None:
        self._directory = directory
        self._index = index
        self._name = "the engine process" if num_engines == 1 else f"engine process {index}"
        self._process: multiprocessing.process.BaseProcess | None = None
        self._lock = threading.Lock()
        self._is_over = False
        self._oom_kills_before = num_oom_kills()

    def start(
        self, config: ServerConfig, files: ModelFiles, cache_dir: Path, tokenizer: Path | None, draft_files: ModelFiles | None
    ) -> None:
        """``tokenizer``, ``draft_files``: see EngineArguments. Does nothing once ``kill`` was called: a download may end after the server
        was told to stop."""
        arguments = EngineArguments(without_secrets(config), self._index, files, self._directory, cache_dir, tokenizer, draft_files)
        process = multiprocessing.get_context("spawn").Process(
            target=run_engine, args=(arguments,), name=f"headway-engine-{self._index}", daemon=True
        )
        with self._lock:
            if not self._is_over:
                process.start()
                self._process = process

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def ended(self) -> str:
        """One sentence on how the process ended, once it has. It must have been started."""
        assert self._process is not None
        await exited(self._process.sentinel)
        self._process.join(timeout=5)
        status = self._process.exitcode
        return f"{self._name} {how_it_ended(status, self._oom_kills_before)}{_ADVICE.get(status or 0, '')}"

    def kill(self, patience_s: float) -> None:
        """Waits for the process to end by itself, then makes sure. Safe to repeat."""
        with self._lock:  # one at a time, since the first to wait for a process takes its exit status
            self._is_over = True
            if self._process is not None:
                self._process.join(timeout=patience_s)
                if self._process.is_alive():
                    self._process.kill()
                    self._process.join()
