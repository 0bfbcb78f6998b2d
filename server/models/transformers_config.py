"""A decoder that `transformers` runs: its shape, read from config.json and the defaults of transformers' own class for it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from headway.server.layers.activation_names import GATED_ACTIVATION_NAMES
from headway.server.layers.rope_config import NO_ROPE
from headway.server.models.base import DecoderConfig
from headway.server.models.decoder_config import read_dtype
from headway.server.models.raw_config import RawConfig
from headway.server.models.transformers_mixture import read_any_mixture

ModelImplementation = Literal["auto", "headway", "transformers"]
# Rotations of a text that change while it grows: keys stay in the cache as they were rotated.
_GROWING_ROPES = ("dynamic", "longrope", "su")
_LATENT_KEYS = ("kv_lora_rank", "qk_nope_head_dim")
_OF_OTHER_INPUTS = ("vision_config", "audio_config", "text_config", "thinker_config")


@dataclass(frozen=True, slots=True)
class ModelCode:
    """Whose code runs a model. ``is_trusted``: whether that which comes with it may, and ``revision`` of that, where it has a repository of
    its own."""

    implementation: ModelImplementation = "auto"
    is_trusted: bool = False
    revision: str | None = None


OWN_CODE = ModelCode()  # where nothing is asked for


@dataclass(frozen=True, slots=True)
class TransformersConfig(DecoderConfig):
    """``values``: config.json with what is laid over it. Sizes of the feed-forward layers are those of a usual decoder: its weights are
    estimated before they are loaded, and counted then. ``code_class``: that of the directory's own code, None where transformers has
    the class."""

    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    directory: Path = Path()
    model_class: str = ""  # such as "Olmo3ForCausalLM"
    code_class: str | None = None
    code: ModelCode = OWN_CODE


@dataclass(frozen=True, slots=True)
class KnownClass:
    """What config.json need not say of a model of a class in transformers. ``names``: canonical key -> its key in this class's files."""

    model_type: str
    names: Mapping[str, str]
    defaults: Mapping[str, Any]
    is_gated: bool
    has_sinks: bool


@cache
def known_classes() -> Mapping[str, KnownClass]:
    """Architecture -> its class, of those in transformers that can be served (tests/models/test_transformers_table.py makes the file)."""
    path = Path(__file__).parent / "transformers_classes.json"
    table = json.loads(path.read_text())
    return {name: KnownClass(**{key.name: entry[key.name] for key in fields(KnownClass)}) for name, entry in table.items()}


@cache
def refused_classes() -> Mapping[str, str]:
    """Architecture -> why it is not served, of those that transformers has and that can't be."""
    found: dict[str, str] = json.loads((Path(__file__).parent / "transformers_refused.json").read_text())
    return found


def own_code(values: Mapping[str, Any]) -> str | None:
    """The class of a causal language model that the model's directory brings code for: "modeling_x.XForCausalLM"."""
    found = (values.get("auto_map") or {}).get("AutoModelForCausalLM") if isinstance(values.get("auto_map"), dict) else None
    return found if isinstance(found, str) else None


def read_transformers_config(raw: RawConfig, architecture: str, directory: Path, code: ModelCode) -> TransformersConfig:
    """Raises ModelSourceError for what our attention, or our loader, can't do for transformers."""
    known = known_classes().get(architecture)
    code_class = own_code(raw.values) if known is None else None
    model = _filled(raw, known)
    _refuse_others(model)
    hidden_size, num_heads = model.size("hidden_size"), model.size("num_attention_heads")
    head_dim = model.size("head_dim", hidden_size // num_heads)
    num_kv_heads = model.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise raw.refusal(f"num_attention_heads {num_heads} is no multiple of num_key_value_heads {num_kv_heads}")
    act = model.text("hidden_act", "silu")
    return TransformersConfig(
        architecture=f"{model.text('model_type', architecture)} through transformers",
        vocab_size=model.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=model.size("intermediate_size", 4 * hidden_size),
        num_layers=model.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=0.0,
        rope=NO_ROPE,
        max_model_len=model.size("max_position_embeddings"),
        checkpoint_dtype=read_dtype(raw),
        tie_word_embeddings=model.flag("tie_word_embeddings"),
        hidden_act=act,
        is_gated=known.is_gated if known is not None else act in GATED_ACTIVATION_NAMES,
        has_sinks=known is not None and known.has_sinks,
        mixture=read_any_mixture(model),
        values=dict(raw.values),
        directory=directory,
        model_class=architecture,
        code_class=code_class,
        code=code,
    )


def _filled(raw: RawConfig, known: KnownClass | None) -> RawConfig:
    """Under canonical keys, with the class's defaults where the file is silent."""
    if known is None:
        return raw
    own = {key: raw.values[name] for key, name in known.names.items() if raw.values.get(name) is not None}
    return raw.with_values(**{**known.defaults, **{k: v for k, v in raw.values.items() if v is not None}, **own})


def _refuse_others(model: RawConfig) -> None:
    for key in _OF_OTHER_INPUTS:
        if isinstance(model.get(key), dict):
            raise model.refusal(f"{key} says that it takes more than text, and transformers is used for decoders of text only")
    if model.get("is_encoder_decoder"):
        raise model.refusal("is_encoder_decoder is true, and transformers is used for decoders only")
    for key in _LATENT_KEYS:
        if model.get(key):
            raise model.refusal(f"{key} says that its attention is latent, which is not served through transformers")
    if model.get("quantization_config") or model.get("compression_config"):
        why = "quantization_config is there, and quantised checkpoints are not served through transformers"
        raise model.refusal(f"{why}; use the model whose weights are not")
    ropes = model.get("rope_parameters") or model.get("rope_scaling") or {}
    for rope in (ropes, *(ropes.values() if isinstance(ropes, dict) else ())):
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
        if kind in _GROWING_ROPES:
            raise model.refusal(f"the rope type is {kind!r}, which changes with a text's length, and is not served through transformers")
