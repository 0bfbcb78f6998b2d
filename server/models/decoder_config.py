"""The part of a config that all families of decoders write alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headway.server.layers.activation_names import ACTIVATION_NAMES, GATED_ACTIVATION_NAMES
from headway.server.layers.rope_config import NO_ROPE, RopeConfig
from headway.server.models.base import DecoderConfig
from headway.server.models.quantization_config import read_quantization
from headway.server.models.raw_config import LARGEST_SIZE, RawConfig, read_rope

_SAME_ACTIVATIONS = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}
_DTYPES = ("float32", "bfloat16", "float16")


def read_decoder_config(
    raw: RawConfig,
    family: str,
    *,
    default_head_dim: int | None = None,
    default_theta: float = 10000.0,
    is_tied: bool = False,
    is_gated: bool = True,
    has_rope: bool = True,
    eps_key: str = "rms_norm_eps",
    **own: Any,
) -> DecoderConfig:
    """``own`` are the fields that the family decides itself, ``default_...`` and ``is_tied`` what goes where its configs don't say.

    Raises ModelSourceError for what no decoder of ours can do."""
    hidden_size, num_heads = raw.size("hidden_size"), raw.size("num_attention_heads")
    head_dim = raw.size("head_dim", default_head_dim or hidden_size // num_heads)
    num_kv_heads = raw.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise raw.refusal(f"num_attention_heads {num_heads} is no multiple of num_key_value_heads {num_kv_heads}")
    max_position = raw.size("max_position_embeddings")
    rope = read_rope(raw, head_dim, max_position, default_theta) if has_rope else NO_ROPE
    dtype = read_dtype(raw)
    common = DecoderConfig(
        architecture=family,
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("intermediate_size"),
        num_layers=raw.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=raw.number(eps_key, 1e-6 if eps_key == "rms_norm_eps" else 1e-5),
        rope=rope,
        max_model_len=_max_model_len(raw, rope, max_position),
        checkpoint_dtype=dtype,
        tie_word_embeddings=raw.flag("tie_word_embeddings", is_tied),
        hidden_act=_activation(raw, is_gated),
        is_gated=is_gated,
        scheme=read_quantization(raw, dtype),
    )
    return replace(common, **own)


def read_dtype(raw: RawConfig) -> str:
    """The checkpoint's."""
    dtype = raw.text("dtype", raw.text("torch_dtype", "float32"))
    if dtype not in _DTYPES:
        raise raw.refusal(f"dtype {dtype!r} is not supported; {', '.join(_DTYPES)} are")
    return dtype


def layered_sliding_windows(raw: RawConfig) -> tuple[int, ...]:
    """Qwen's way: a switch, then ``layer_types``, or the window for layers from ``max_window_layers`` on."""
    is_null = "sliding_window" in raw.values and raw.get("sliding_window") is None
    if is_null or not raw.flag("use_sliding_window"):
        return ()
    first = raw.integer("max_window_layers", 28)
    return typed_sliding_windows(raw, raw.integer("sliding_window", 4096), lambda layer: layer >= first)


def typed_sliding_windows(raw: RawConfig, window: int, slides: Callable[[int], bool]) -> tuple[int, ...]:
    """By ``layer_types``; a config without has the window in layers that ``slides`` names."""
    num_layers, types = raw.size("num_hidden_layers"), raw.get("layer_types")
    if types is None:
        return tuple(window if slides(layer) else 0 for layer in range(num_layers))
    known = {"sliding_attention": window, "full_attention": 0}
    if not isinstance(types, list) or len(types) != num_layers or any(kind not in list(known) for kind in types):
        raise raw.refusal(f"layer_types must name sliding_attention or full_attention for each of {num_layers} layers, not {types!r}")
    return tuple(known[kind] for kind in types)


def all_but_each(raw: RawConfig, key: str, default: int) -> Callable[[int], bool]:
    """Whether a layer is none of each ``key``-th: 4 leaves out the layers 3, 7, 11 and so on."""
    pattern = raw.size(key, default)
    return lambda layer: (layer + 1) % pattern != 0


def _activation(raw: RawConfig, is_gated: bool) -> str:
    name = raw.text("hidden_act", "silu")
    known = GATED_ACTIVATION_NAMES if is_gated else ACTIVATION_NAMES
    found = _SAME_ACTIVATIONS.get(name, name)
    if found not in known:
        raise raw.refusal(f"hidden_act {name!r} is not supported; {', '.join(known)} are")
    return found


def _max_model_len(raw: RawConfig, rope: RopeConfig, max_position: int) -> int:
    """With YaRN many configs keep the length of the first training in max_position_embeddings, with dynamic scaling all do; the factor
    stretches that."""
    if rope.type not in ("yarn", "dynamic"):
        return max_position
    stretched = rope.original_max_position * rope.factor
    if stretched > LARGEST_SIZE:
        raise raw.refusal(f"the factor of its rope parameters makes a context of {stretched:.3g} tokens, and {LARGEST_SIZE} are the most")
    return max(max_position, int(stretched))
