"""Finds the model and starts the engine processes, beside whatever else start-up has to do."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path

from headway.server.config.server import ServerConfig
from headway.server.engine.data_parallel.processes import EngineProcesses
from headway.server.machine import host_memory
from headway.server.phases import PhaseLog
from headway.server.sizing.draft_files import resolve_draft
from headway.server.sizing.model import read_shape
from headway.server.source.files import ModelFiles
from headway.server.source.read_ahead import read_ahead
from headway.server.source.resolve import resolve_model, resolve_tokenizer

log = logging.getLogger(__name__)


class EngineStarter:
    """Finds the model's files, fetching them if need be, then starts the engine processes; all in a thread of its own.

    ``files`` is done once the files are local and the engine processes run; it carries the exception if that failed.
    """

    def __init__(self, config: ServerConfig, directory: Path, cache_dir: Path, phases: PhaseLog) -> None:
        """``directory``: where the engines meet the API processes."""
        self.directory = directory
        self.processes = EngineProcesses(directory, config.data_parallel.data_parallel_size)
        self.cache_dir = cache_dir
        self.phases = phases
        self.files: Future[ModelFiles] = Future()
        self.phase = "looking for the model"
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine-starter")

    def begin(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float = 2.0) -> None:
        """Ends the engine processes at once, and a fetch under way if it notices within ``patience_s``. Safe to repeat."""
        self._stop.set()
        self.processes.kill(patience_s=0)
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        model = self._config.model
        try:
            assert model.model is not None, "checked with the options"
            files = resolve_model(
                model.model,
                revision=model.revision,
                token=model.hf_token,
                download_dir=model.download_dir,
                load_format=model.load_format,
                with_code=model.trust_remote_code,
                ignore_patterns=model.ignore_patterns,
                cache_dir=self.cache_dir,
                on_progress=self._progress,
                stop=self._stop,
            )
            if model.load_format != "dummy":
                read_ahead(files, host_memory()[1])
            draft_files = resolve_draft(self._config, self.cache_dir, self._progress, self._stop)
            tokenizer = self._tokenizer()
            self.phases.enter("starting the engine process")
            self.processes.start(self._config, files, self.cache_dir, tokenizer, draft_files)
            read_shape(self._config, files)  # what is not supported is said while the engine still imports torch
        except BaseException as problem:  # the thread's edge: whoever waits for the files gets it
            self.files.set_exception(problem)
        else:
            self.files.set_result(files)

    def _tokenizer(self) -> Path | None:
        """Where that of --tokenizer is: the engine, which reads it for grammars, has no token to fetch it with."""
        model = self._config.model
        if (source := model.tokenizer_source) is None:
            return None
        return resolve_tokenizer(
            source,
            cache_dir=self.cache_dir,
            revision=model.tokenizer_revision,
            token=model.hf_token,
            download_dir=model.download_dir,
            on_progress=self._progress,
        )

    def _progress(self, text: str) -> None:
        self.phase = text
        if self._config.start.use_tqdm_on_load:
            log.info("%s", text)
