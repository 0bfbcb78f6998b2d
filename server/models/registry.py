"""Which family a model belongs to, by the names that its files use. A family's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from headway.server.errors import ModelSourceError
from headway.server.models.pooled import pooled

if TYPE_CHECKING:
    from headway.server.models.base import Family, PooledFamily

# config.json "architectures" -> module
ARCHITECTURES = {
    "LlamaForCausalLM": "headway.server.models.llama",
    "MistralForCausalLM": "headway.server.models.mistral",
    "Qwen2ForCausalLM": "headway.server.models.qwen2",
    "Qwen3ForCausalLM": "headway.server.models.qwen3",
    "MixtralForCausalLM": "headway.server.models.mixtral",
    "Qwen2MoeForCausalLM": "headway.server.models.qwen2_moe",
    "Qwen3MoeForCausalLM": "headway.server.models.qwen3_moe",
    "GptOssForCausalLM": "headway.server.models.gpt_oss",
}
# Names of encoders without what they stand for: "BertModel", "BertForSequenceClassification" -> "Bert" -> module
ENCODERS = {
    "Bert": "headway.server.models.bert",
    "Roberta": "headway.server.models.roberta",
    "XLMRoberta": "headway.server.models.roberta",
    "DistilBert": "headway.server.models.distilbert",
    "ModernBert": "headway.server.models.modernbert",
}
# GGUF "general.architecture" -> module
GGUF_ARCHITECTURES = {
    "llama": "headway.server.models.llama",
    "qwen2": "headway.server.models.qwen2",
    "qwen3": "headway.server.models.qwen3",
    "qwen2moe": "headway.server.models.qwen2_moe",
    "qwen3moe": "headway.server.models.qwen3_moe",
    "gpt-oss": "headway.server.models.gpt_oss",
}
# The same of a file that has experts, where it says no more than that.
GGUF_MIXTURES = {"llama": "headway.server.models.mixtral"}


def family_of(architectures: list[str], origin: str) -> Family:
    """The family of the first known name; raises ModelSourceError with what is supported where none is known."""
    return _find(architectures, ARCHITECTURES, origin)


def gguf_family_of(architecture: str, origin: str, has_experts: bool) -> Family:
    return _find([architecture], GGUF_ARCHITECTURES | (GGUF_MIXTURES if has_experts else {}), origin)


def pooled_family_of(architectures: list[str], origin: str, is_classifier: bool) -> PooledFamily:
    """The family of the first known name as one that pools; raises ModelSourceError with what is supported where none is known."""
    decoders = {stem_of(name): module for name, module in ARCHITECTURES.items()}
    stem = next((stem for stem in map(stem_of, architectures) if stem in ENCODERS or stem in decoders), None)
    if stem is None:
        raise _unsupported(architectures, [*ENCODERS, *decoders], origin)
    if stem in ENCODERS:
        family: PooledFamily = importlib.import_module(ENCODERS[stem]).family(is_classifier)
        return family
    return pooled(importlib.import_module(decoders[stem]).FAMILY, is_classifier)


def stem_of(architecture: str) -> str:
    """ "Bert" of "BertForSequenceClassification"."""
    return next((architecture.removesuffix(suffix) for suffix in _SUFFIXES if architecture.endswith(suffix)), architecture)


_SUFFIXES = ("ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model")


def _find(names: list[str], known: dict[str, str], origin: str) -> Family:
    for name in names:
        if name in known:
            family: Family = importlib.import_module(known[name]).FAMILY
            return family
    raise _unsupported(names, list(known), origin)


def _unsupported(names: list[str], known: list[str], origin: str) -> ModelSourceError:
    supported = f"these are: {', '.join(known)}"
    if not names:
        return ModelSourceError(
            f"The config.json of {origin} has no `architectures`, so that it is not known which of the supported ones it is; {supported}."
        )
    return ModelSourceError(f"The architecture of {origin} is {' / '.join(names)}, which is not supported; {supported}.")
