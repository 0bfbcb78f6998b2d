"""The part of a config that all mixtures of experts have, whatever they call it."""

from __future__ import annotations

from typing import Any

from headway.server.models.base import MixtureConfig
from headway.server.models.raw_config import RawConfig


def read_mixture(raw: RawConfig, *names_of_count: str, intermediate_size: int, renormalise: bool, **own: Any) -> MixtureConfig:
    """``names_of_count``: keys that may hold the number of experts, the first that does counts. ``own`` are other fields, which the family
    decides itself. Raises ModelSourceError for what no mixture of ours can do."""
    key = next((name for name in names_of_count if raw.get(name) is not None), names_of_count[0])
    num_experts, top_k = raw.size(key), raw.size("num_experts_per_tok")
    if top_k > num_experts:
        raise raw.refusal(f"num_experts_per_tok is {top_k} and {key} {num_experts}: a token can't go to more experts than there are")
    if (activation := raw.text("hidden_act", "silu")) not in ("silu", "swish"):
        raise raw.refusal(f"hidden_act {activation!r} is not supported for experts; silu is")
    return MixtureConfig(num_experts, top_k, intermediate_size, renormalise, **own)


def qwen_dense_layers(raw: RawConfig) -> frozenset[int]:
    """Qwen's way to say which layers are no mixtures: ``mlp_only_layers``, and all but each ``decoder_sparse_step``-th."""
    named, step = raw.get("mlp_only_layers") or [], raw.size("decoder_sparse_step", 1)
    if not isinstance(named, list) or not all(isinstance(layer, int) for layer in named):
        raise raw.refusal(f"mlp_only_layers must be a list of layers, not {named!r}")
    return frozenset(i for i in range(raw.size("num_hidden_layers")) if i in named or (i + 1) % step)
