"""What a model is loaded for: to generate text, to turn texts into vectors, or into the scores of labels."""

from __future__ import annotations

from typing import Literal

from headway.server.errors import ModelSourceError
from headway.server.loading.config_json import NO_OVERRIDES, Overrides, architectures_in, read_config_json
from headway.server.models.registry import ARCHITECTURES, stem_of
from headway.server.source.files import ModelFiles

Use = Literal["generate", "embed", "classify"]
Runner = Literal["auto", "generate", "pooling"]
Convert = Literal["auto", "none", "embed", "classify"]

_SENTENCE_TRANSFORMERS = "modules.json"


def use_of(files: ModelFiles, runner: Runner, convert: Convert, overrides: Overrides = NO_OVERRIDES) -> Use:
    """``convert`` goes first, then ``runner``, then what the files are. Raises ModelSourceError for what the model can't be."""
    if convert in ("embed", "classify"):
        return convert
    if files.kind == "gguf":
        return "embed" if runner == "pooling" else "generate"
    architectures = architectures_in(read_config_json(files, overrides))
    own = _own_use(files, architectures)
    if runner == "generate" and own != "generate" and not any(name in ARCHITECTURES for name in architectures):
        does = "vectors (/v1/embeddings)" if own == "embed" else "scores (/classify, /rerank)"
        raise ModelSourceError(
            f"The model {files.name} can't generate text (its architecture is {' / '.join(architectures)}): leave --runner generate out, "
            f"and it is served for {does}."
        )
    if runner == "generate":
        return "generate"
    return "embed" if runner == "pooling" and own == "generate" else own


def _own_use(files: ModelFiles, architectures: list[str]) -> Use:
    for name in architectures:
        if name.endswith("ForSequenceClassification"):
            return "classify"
        if name.endswith("ForCausalLM") or name in ARCHITECTURES:
            return "embed" if (files.path / _SENTENCE_TRANSFORMERS).is_file() else "generate"
        if stem_of(name) != name:
            return "embed"
    return "generate"  # whose loader says what is supported
