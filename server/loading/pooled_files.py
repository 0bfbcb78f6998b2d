"""What a model that pools texts is, and its recipe, read from its files: without weights, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.loading.config_json import NO_OVERRIDES, Overrides, architectures_in, raw_config, read_config_json
from headway.server.loading.gguf_config import read_gguf_config
from headway.server.loading.gguf_file import GgufFile
from headway.server.loading.pooling_recipe import PoolingRecipe, read_recipe
from headway.server.models.base import ModelConfig, PooledFamily
from headway.server.models.pooled import pooled
from headway.server.models.raw_config import RawConfig
from headway.server.models.registry import pooled_family_of
from headway.server.source.files import ModelFiles


@dataclass(frozen=True, slots=True)
class PooledFiles:
    files: ModelFiles
    family: PooledFamily
    config: ModelConfig
    recipe: PoolingRecipe
    gguf: GgufFile | None

    @property
    def max_tokens(self) -> int:
        """Of a text."""
        return min(self.config.max_model_len, self.recipe.max_tokens or self.config.max_model_len)


def read_pooled(files: ModelFiles, is_classifier: bool, overrides: Overrides = NO_OVERRIDES) -> PooledFiles:
    """Raises ModelSourceError for what is not supported."""
    if files.kind == "gguf":
        return _read_gguf(files, is_classifier)
    values: dict[str, Any] = read_config_json(files, overrides)
    family = pooled_family_of(architectures_in(values), str(files.path), is_classifier)
    raw = raw_config(files, values)
    if raw.get("quantization_config") or raw.get("compression_config"):
        raise raw.refusal("quantization_config says that it is quantised, which is supported for generating text only")
    config = family.read_config(raw)
    return PooledFiles(files, family, config, read_recipe(files, raw, config, family.pooling), None)


def _read_gguf(files: ModelFiles, is_classifier: bool) -> PooledFiles:
    if is_classifier:
        raise ModelSourceError(f"The GGUF file {files.path} can't be served for scores of labels: use the model's safetensors.")
    file = GgufFile(files.path)
    decoder, config = read_gguf_config(file)
    family = pooled(decoder, is_classifier)
    raw = RawConfig({}, f"GGUF metadata ({file.origin})")
    return PooledFiles(files, family, config, read_recipe(files, raw, config, family.pooling), file)
