"""Which models a library of attention kernels can compute."""

from __future__ import annotations

from headway.server.config.attention import AttentionBackend, AttentionConfig, LibraryFacts, on_a_cpu
from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig


def check_attention(attention: AttentionConfig, config: ModelConfig, *, on_gpu: bool) -> None:
    """Raises ConfigError for what no library has, whichever is installed."""
    asked, why = attention.attention_backend, None
    if asked != "auto" and not on_gpu:
        raise ConfigError([on_a_cpu(asked)])
    if not attention.asks_for_library or not isinstance(config, DecoderConfig):
        return
    if config.latent is not None:
        why = "this model keeps one vector of each token for all heads (latent attention)"
    elif config.has_sinks:
        why = "this model has attention sinks"
    if why is not None:
        raise _refusal(asked, why)


def check_heads(asked: AttentionBackend, library: LibraryFacts | None, config: ModelConfig) -> None:
    """Raises ConfigError for heads that ``library`` has no kernels for; None: they are Headway's own, which take any."""
    assert isinstance(config, DecoderConfig), "models that pool have no choice"
    if library is not None and config.head_dim not in library.head_dims:
        raise _refusal(asked, f"this model has heads of {config.head_dim} numbers")


def _refusal(asked: AttentionBackend, why: str) -> ConfigError:
    return ConfigError([f"--attention-backend {asked}: {why}, which only Headway's own kernels take: leave it out"])
