"""Which weights of a model a quantised checkpoint has quantised: from names alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headway.server.models.base import DecoderConfig, Family
from headway.server.models.names import WeightName
from headway.server.models.raw_config import RawConfig

_LATENT = tuple(f".latent.{name}.weight" for name in ("q", "q_a", "q_b", "kv_a", "kv_b"))
_LINEARS = (*_LATENT, ".qkv.weight", ".o.weight", ".gate_up.weight", ".up.weight", ".down.weight", "lm_head.weight")


def with_quantized_linears(family: Family, config: DecoderConfig, raw: RawConfig) -> DecoderConfig:
    """Raises ModelSourceError where parts that are computed as one are quantised in part, or tensors are transposed."""
    scheme = config.scheme
    if scheme is None:
        return config
    found: dict[str, set[bool]] = {}
    for name in _linears(family, config):
        if name.is_transposed:
            raise raw.refusal(f"quantization_config is there, and quantised checkpoints of {family.name} are not supported")
        found.setdefault(name.weight, set()).add(scheme.quantizes(name.checkpoint.removesuffix(".weight")))
    torn = next((weight for weight, kinds in found.items() if len(kinds) > 1), None)
    if torn is not None:
        raise raw.refusal(f"quantization_config leaves out some of the parts of {torn}, which are computed as one; all or none can be")
    linears = frozenset(weight for weight, kinds in found.items() if True in kinds)
    if not linears:
        raise raw.refusal("quantization_config leaves out every linear layer")
    return replace(config, quantized_linears=linears)


def quantized_modules(family: Family, config: DecoderConfig) -> frozenset[str]:
    """By the checkpoint's names."""
    return frozenset(
        name.checkpoint.removesuffix(".weight") for name in _linears(family, config) if name.weight in config.quantized_linears
    )


def _linears(family: Family, config: DecoderConfig) -> Iterator[WeightName]:
    """A head that is tied to the embedding is as that is. The feed-forward layers of names are in some layers only."""
    for pattern in family.names:
        if not f".{pattern.weight}".endswith(_LINEARS) or (pattern.weight == "lm_head.weight" and config.tie_word_embeddings):
            continue
        yield from pattern.expanded(config.num_layers, config.num_experts)
