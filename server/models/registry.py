"""Which family a model belongs to, by the names that its files use. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from headway.server.errors import ModelSourceError

if TYPE_CHECKING:
    from headway.server.models.base import Family

# config.json "architectures" -> module
ARCHITECTURES = {
    "LlamaForCausalLM": "headway.server.models.llama",
    "MistralForCausalLM": "headway.server.models.mistral",
    "Qwen2ForCausalLM": "headway.server.models.qwen2",
    "Qwen3ForCausalLM": "headway.server.models.qwen3",
}
# GGUF "general.architecture" -> module
GGUF_ARCHITECTURES = {
    "llama": "headway.server.models.llama",
    "qwen2": "headway.server.models.qwen2",
    "qwen3": "headway.server.models.qwen3",
}


def family_of(architectures: list[str], origin: str) -> Family:
    """The family of the first known name; raises ModelSourceError with what is supported where none is known."""
    return _find(architectures, ARCHITECTURES, origin)


def gguf_family_of(architecture: str, origin: str) -> Family:
    return _find([architecture], GGUF_ARCHITECTURES, origin)


def _find(names: list[str], known: dict[str, str], origin: str) -> Family:
    for name in names:
        if name in known:
            family: Family = importlib.import_module(known[name]).FAMILY
            return family
    supported = f"these are: {', '.join(known)}"
    if not names:
        raise ModelSourceError(
            f"The config.json of {origin} has no `architectures`, so that it is not known which of the supported ones it is; {supported}."
        )
    raise ModelSourceError(f"The architecture of {origin} is {' / '.join(names)}, which is not supported; {supported}.")
