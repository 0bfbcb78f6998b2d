"""The model's files on a host that is not the engine's: found, or fetched, by the same name."""

from __future__ import annotations

import logging
from pathlib import Path

from headway.server.config.model import ModelConfig
from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model

log = logging.getLogger(__name__)


def files_of_this_host(model: ModelConfig, address: str, cache_dir: Path) -> ModelFiles:
    """``address`` is this host's. For the Hub and S3 it has credentials of its own. Raises ModelSourceError, which names the host."""
    assert model.model is not None, "checked with the options"
    try:
        return resolve_model(
            model.model,
            revision=model.revision,
            download_dir=model.download_dir,
            load_format=model.load_format,
            with_code=model.trust_remote_code,
            ignore_patterns=model.ignore_patterns,
            cache_dir=cache_dir,
            on_progress=log.info,
        )
    except ModelSourceError as problem:
        raise ModelSourceError(
            f"Host {address} of the Ray cluster lacks the model: {str(problem).removesuffix('.')}; put it at the same path on every "
            "host, or name one that each can fetch (a Hub id, s3://)."
        ) from problem
