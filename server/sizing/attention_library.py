"""Which models a library of attention kernels can compute."""

from __future__ import annotations

from headway.server.config.attention import AttentionBackend, LibraryFacts
from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig


def check_library(asked: AttentionBackend, library: LibraryFacts | None, config: ModelConfig) -> None:
    """Raises ConfigError for attention that is not that of ``library``; None: it is Headway's own, which takes all."""
    if library is None:
        return
    assert isinstance(config, DecoderConfig), "models that pool have no choice"
    why = None
    if config.latent is not None:
        why = "this model keeps one vector of each token for all heads (latent attention)"
    elif config.has_sinks:
        why = "this model has attention sinks"
    elif config.head_dim not in library.head_dims:
        why = f"this model has heads of {config.head_dim} numbers"
    if why is not None:
        raise ConfigError([f"--attention-backend {asked}: {why}, which {library.name} does not compute here: leave it out"])
