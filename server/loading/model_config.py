"""What a model that generates text is, read from its config.json or its GGUF's metadata: without weights, without torch."""

from __future__ import annotations

from headway.server.loading.config_json import NO_OVERRIDES, Overrides, architectures_in, raw_config, read_config_json
from headway.server.loading.gguf_config import read_gguf_config
from headway.server.loading.gguf_file import GgufFile
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.quantized_linears import with_quantized_linears
from headway.server.models.registry import family_of
from headway.server.source.files import ModelFiles


def read_config(files: ModelFiles, overrides: Overrides = NO_OVERRIDES) -> DecoderConfig:
    """The model's own shape. Raises ModelSourceError for what is not supported."""
    return open_model(files, overrides)[1]


def open_model(files: ModelFiles, overrides: Overrides) -> tuple[Family, DecoderConfig, GgufFile | None]:
    """Its family, its shape, and the file where it is a GGUF. Raises ModelSourceError for what is not supported."""
    if files.kind == "gguf":
        file = GgufFile(files.path)
        return *read_gguf_config(file), file
    values = read_config_json(files, overrides)
    family = family_of(architectures_in(values), str(files.path))
    raw = raw_config(files, values)
    return family, with_quantized_linears(family, family.read_config(raw), raw), None
