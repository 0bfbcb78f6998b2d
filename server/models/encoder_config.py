"""The part of a config that all encoders write alike, though not by the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headway.server.layers.activation_names import ACTIVATION_NAMES
from headway.server.models.base import EncoderConfig
from headway.server.models.decoder_config import read_dtype
from headway.server.models.raw_config import RawConfig, num_labels_of


@dataclass(frozen=True, slots=True)
class EncoderKeys:
    """What a family's config.json calls the sizes."""

    hidden_size: str = "hidden_size"
    intermediate_size: str = "intermediate_size"
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    hidden_act: str = "hidden_act"


def read_encoder_config(
    raw: RawConfig, family: str, is_classifier: bool, *, keys: EncoderKeys = EncoderKeys(), first_position: int = 0, **own: Any
) -> EncoderConfig:
    """``own`` are the fields that the family decides itself. Raises ModelSourceError for what no encoder of ours can do."""
    kind = raw.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise raw.refusal(f"position_embedding_type {kind!r} is not supported; absolute is")
    if raw.flag("is_decoder"):
        raise raw.refusal("is_decoder is true, and this version serves models of this architecture as encoders only")
    activation = raw.text(keys.hidden_act, "gelu")
    if activation not in ACTIVATION_NAMES:
        raise raw.refusal(f"{keys.hidden_act} {activation!r} is not supported; {', '.join(ACTIVATION_NAMES)} are")
    hidden_size, num_heads = raw.size(keys.hidden_size), raw.size(keys.num_heads)
    if hidden_size % num_heads:
        raise raw.refusal(f"{keys.hidden_size} {hidden_size} is no multiple of {keys.num_heads} {num_heads}")
    return EncoderConfig(
        architecture=family,
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size(keys.intermediate_size),
        num_layers=raw.size(keys.num_layers),
        num_heads=num_heads,
        hidden_act=activation,
        max_model_len=raw.size("max_position_embeddings") - first_position,
        first_position=first_position,
        checkpoint_dtype=read_dtype(raw),
        num_labels=num_labels_of(raw) if is_classifier else 0,
        **own,
    )
