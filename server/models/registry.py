"""Which family a model belongs to, by the names that its files use. A family's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from headway.server.errors import ModelSourceError
from headway.server.models.pooled import pooled
from headway.server.models.transformers_config import ModelCode, known_classes, own_code, refused_classes

if TYPE_CHECKING:
    from headway.server.models.base import Family, PooledFamily
    from headway.server.models.raw_config import RawConfig

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
    "DeepseekV2ForCausalLM": "headway.server.models.deepseek_v2",
    "DeepseekV3ForCausalLM": "headway.server.models.deepseek_v3",
    "GemmaForCausalLM": "headway.server.models.gemma",
    "Gemma2ForCausalLM": "headway.server.models.gemma2",
    "Gemma3ForCausalLM": "headway.server.models.gemma3",
    "Phi3ForCausalLM": "headway.server.models.phi3",
    "GraniteForCausalLM": "headway.server.models.granite",
    "Olmo2ForCausalLM": "headway.server.models.olmo2",
    "CohereForCausalLM": "headway.server.models.cohere",
    "Cohere2ForCausalLM": "headway.server.models.cohere2",
    "GPT2LMHeadModel": "headway.server.models.gpt2",
    "OPTForCausalLM": "headway.server.models.opt",
    "Starcoder2ForCausalLM": "headway.server.models.starcoder2",
    "SmolLM3ForCausalLM": "headway.server.models.smollm3",
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
    "deepseek2": "headway.server.models.deepseek_v2",
    "gemma": "headway.server.models.gemma",
    "gemma2": "headway.server.models.gemma2",
    "gemma3": "headway.server.models.gemma3",
    "phi3": "headway.server.models.phi3",
    "granite": "headway.server.models.granite",
    "olmo2": "headway.server.models.olmo2",
    "command-r": "headway.server.models.cohere",
    "cohere2": "headway.server.models.cohere2",
    "gpt2": "headway.server.models.gpt2",
    "starcoder2": "headway.server.models.starcoder2",
    "smollm3": "headway.server.models.smollm3",
}
# The same of a file that has experts, where it says no more than that.
GGUF_MIXTURES = {"llama": "headway.server.models.mixtral"}
# The same of a file whose experts are scored by sigmoids.
GGUF_SIGMOID_MIXTURES = {"deepseek2": "headway.server.models.deepseek_v3"}


def family_of(architectures: list[str], origin: str) -> Family:
    """The family of the first known name; raises ModelSourceError with what is supported where none is known."""
    return _find(architectures, ARCHITECTURES, origin)


def class_through_transformers(architectures: list[str], raw: RawConfig, code: ModelCode) -> str | None:
    """The class by which `transformers` runs the model, in its library or beside the model; None where it is one of our families, or of
    none. Raises ModelSourceError for code that is not trusted, and where transformers is asked for and has no such class."""
    if code.implementation == "headway" or (code.implementation == "auto" and any(name in ARCHITECTURES for name in architectures)):
        return None
    known = known_classes()
    if found := next((name for name in architectures if name in known), None):
        return found
    if (own := own_code(raw.values)) is not None:
        if not code.is_trusted:
            raise ModelSourceError(
                f"The model's class {own} comes as code beside it, by its {raw.origin}, and such code only runs where it is trusted: read "
                "it, and serve the model with --trust-remote-code."
            )
        return architectures[0] if architectures else own.rpartition(".")[2]
    if code.implementation == "transformers":
        raise ModelSourceError(
            f"--model-impl transformers: {' / '.join(architectures) or 'a model without `architectures`'} in {raw.origin} is no class that "
            f"can be served so{_why_refused(architectures)}; these are: {', '.join(known)}."
        )
    return None


def gguf_family_of(architecture: str, origin: str, *, has_experts: bool, has_sigmoids: bool) -> Family:
    known = GGUF_ARCHITECTURES | (GGUF_MIXTURES if has_experts else {}) | (GGUF_SIGMOID_MIXTURES if has_sigmoids else {})
    if architecture not in known:
        raise ModelSourceError(
            f"The architecture of the GGUF file {origin} is {architecture or 'not said'}, which is not supported; these are: "
            f"{', '.join(known)}. Serve the model's safetensors instead: of these more kinds run, see docs/models.md."
        )
    family: Family = importlib.import_module(known[architecture]).FAMILY
    return family


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


_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForSequenceClassification", "ForMaskedLM", "Model")


def _find(names: list[str], known: dict[str, str], origin: str) -> Family:
    for name in names:
        if name in known:
            family: Family = importlib.import_module(known[name]).FAMILY
            return family
    others = f"; {len(known_classes().keys() - known)} more run through transformers, see docs/models.md" if known is ARCHITECTURES else ""
    raise _unsupported(names, list(known), origin, others)


def _nearest(names: list[str], known: list[str]) -> str:
    """What to try where a name is much like a known one: many models are another's shape to the letter."""
    stems = {stem_of(name): name for name in known}
    found = [match for name in names for match in difflib.get_close_matches(stem_of(name), stems, n=1)]
    if not found:
        return ""
    nearest = stems[found[0]]
    return (
        f". The nearest by name is {nearest}; a model of just that shape is served with "
        f"""--hf-overrides '{{"architectures": ["{nearest}"]}}'"""
    )


def _why_refused(names: list[str]) -> str:
    """Where transformers has the class, and is not used for it."""
    refused = refused_classes()
    return next((f" ({refused[name]})" for name in names if name in refused), "")


def _unsupported(names: list[str], known: list[str], origin: str, others: str = "") -> ModelSourceError:
    supported = f"these are: {', '.join(known)}{others}{_nearest(names, known)}"
    if not names:
        return ModelSourceError(
            f"The config.json of {origin} has no `architectures`, so that it is not known which of the supported ones it is; {supported}."
        )
    why = _why_refused(names)
    return ModelSourceError(f"The architecture of {origin} is {' / '.join(names)}, which is not supported{why}; {supported}.")
