"""What a model's own files say of its size, without its weights and without torch."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.config.plan import ModelFacts
from headway.server.config.server import ServerConfig
from headway.server.models.base import ModelConfig
from headway.server.source.files import ModelFiles


@dataclass(frozen=True, slots=True)
class ModelShape:
    config: ModelConfig
    facts: ModelFacts


def read_shape(config: ServerConfig, files: ModelFiles) -> ModelShape:
    """Of the model as it would be served. Raises ModelSourceError or ConfigError for what is not supported. A safetensors directory needs
    its config.json only."""
    raise NotImplementedError
