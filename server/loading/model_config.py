"""What a model that generates text is, read from its config.json or its GGUF's metadata: without weights, without torch."""

from __future__ import annotations

from headway.server.errors import ModelSourceError
from headway.server.loading.config_json import NO_OVERRIDES, Overrides, architectures_in, raw_config, read_config_json
from headway.server.loading.gguf_config import read_gguf_config
from headway.server.loading.gguf_file import GgufFile
from headway.server.models.base import DecoderConfig, Family
from headway.server.models.quantized_linears import with_quantized_linears
from headway.server.models.registry import class_through_transformers, family_of
from headway.server.models.transformers_config import OWN_CODE, ModelCode, read_transformers_config
from headway.server.source.files import ModelFiles


def read_config(files: ModelFiles, overrides: Overrides = NO_OVERRIDES, code: ModelCode = OWN_CODE) -> DecoderConfig:
    """The model's own shape. Raises ModelSourceError for what is not supported."""
    return open_model(files, overrides, code)[1]


def open_model(files: ModelFiles, overrides: Overrides, code: ModelCode = OWN_CODE) -> tuple[Family | None, DecoderConfig, GgufFile | None]:
    """Its family, its shape, and the file where it is a GGUF. A model that runs through transformers has no family. Raises ModelSourceError
    for what is not supported."""
    if files.kind == "gguf":
        if code.implementation == "transformers":
            raise ModelSourceError("--model-impl transformers takes safetensors, and this model is a GGUF: leave it out.")
        file = GgufFile(files.path)
        return *read_gguf_config(file), file
    values = read_config_json(files, overrides)
    architectures, raw = architectures_in(values), raw_config(files, values)
    if (runs := class_through_transformers(architectures, raw, code)) is not None:
        return None, read_transformers_config(raw, runs, files.path, code), None
    family = family_of(architectures, str(files.path))
    return family, with_quantized_linears(family, family.read_config(raw), raw), None
