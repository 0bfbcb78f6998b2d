"""The files of the draft model that --speculative-config names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from headway.server.config.server import ServerConfig
from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model


def resolve_draft(
    config: ServerConfig, cache_dir: Path, on_progress: Callable[[str], None] | None = None, stop: threading.Event | None = None
) -> ModelFiles | None:
    """None: no model drafts. Fetched as the served model is. Raises ModelSourceError."""
    settings, model = config.speculative.settings, config.model
    if settings is None or settings.model is None:
        return None
    try:
        return resolve_model(
            settings.model,
            revision=settings.revision,
            token=model.hf_token,
            download_dir=model.download_dir,
            load_format="dummy" if model.load_format == "dummy" else "auto",
            with_code=model.trust_remote_code,
            ignore_patterns=model.ignore_patterns,
            cache_dir=cache_dir,
            on_progress=on_progress,
            stop=stop,
        )
    except ModelSourceError as problem:
        raise ModelSourceError(f"The draft model of --speculative-config: {problem}") from problem
