"""ModernBERT's config.json."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.layers.activation_names import ACTIVATION_NAMES, GATED_ACTIVATION_NAMES
from headway.server.models.base import EncoderConfig
from headway.server.models.decoder_config import read_dtype
from headway.server.models.raw_config import RawConfig, num_labels_of

_LAYER_TYPES = ("full_attention", "sliding_attention")
_THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


@dataclass(frozen=True, slots=True)
class ModernBertConfig(EncoderConfig):
    windows: tuple[int, ...] = ()  # one a layer: how far a token sees to either side; 0: everything
    thetas: tuple[float, float] = (0.0, 0.0)  # of layers that see everything, of the others
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    head_activation: str = "gelu"


def read_config(raw: RawConfig, is_classifier: bool) -> ModernBertConfig:
    activation, head_activation = raw.text("hidden_activation", "gelu"), raw.text("classifier_activation", "gelu")
    if activation not in GATED_ACTIVATION_NAMES:
        raise raw.refusal(f"hidden_activation {activation!r} is not supported; {', '.join(GATED_ACTIVATION_NAMES)} are")
    if head_activation not in ACTIVATION_NAMES:
        raise raw.refusal(f"classifier_activation {head_activation!r} is not supported; {', '.join(ACTIVATION_NAMES)} are")
    types = raw.get("layer_types") or _layer_types(raw)
    if not isinstance(types, list) or len(types) != raw.size("num_hidden_layers") or any(kind not in _LAYER_TYPES for kind in types):
        raise raw.refusal(f"layer_types must name {' or '.join(_LAYER_TYPES)} for each layer, not {types!r}")
    window = raw.integer("local_attention", 128) // 2
    return ModernBertConfig(
        architecture="modernbert",
        vocab_size=raw.size("vocab_size"),
        hidden_size=raw.size("hidden_size"),
        intermediate_size=raw.size("intermediate_size"),
        num_layers=len(types),
        num_heads=raw.size("num_attention_heads"),
        norm_eps=raw.number("norm_eps", 1e-5),
        hidden_act=activation,
        max_model_len=raw.size("max_position_embeddings"),
        checkpoint_dtype=read_dtype(raw),
        num_labels=num_labels_of(raw) if is_classifier else 0,
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in types),
        thetas=(_theta(raw, "full_attention"), _theta(raw, "sliding_attention")),
        norm_bias=raw.flag("norm_bias"),
        attention_bias=raw.flag("attention_bias"),
        mlp_bias=raw.flag("mlp_bias"),
        head_bias=raw.flag("classifier_bias"),
        head_activation=head_activation,
    )


def _layer_types(raw: RawConfig) -> list[str]:
    """As configs wrote it first: every so many layers one that sees everything."""
    every = raw.size("global_attn_every_n_layers", 3)
    return [_LAYER_TYPES[bool(i % every)] for i in range(raw.size("num_hidden_layers"))]


def _theta(raw: RawConfig, kind: str) -> float:
    by_kind = raw.get("rope_parameters") or {}
    own = (by_kind.get(kind) or {}) if isinstance(by_kind, dict) else by_kind
    if not isinstance(own, dict) or own.get("rope_type", "default") != "default":
        raise raw.refusal(f"the rope parameters {own!r} are not supported; rope_type default is")
    key, default = _THETAS[kind]
    return RawConfig(own, raw.origin).positive("rope_theta", raw.positive(key, default))
