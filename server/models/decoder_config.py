"""The part of a config that all families of the Llama shape write alike."""

from __future__ import annotations

from typing import Any

from headway.server.layers.rope_config import RopeConfig
from headway.server.models.base import DecoderConfig
from headway.server.models.raw_config import RawConfig, read_rope

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_pytorch_tanh"}
_DTYPES = ("float32", "bfloat16", "float16")


def read_decoder_config(raw: RawConfig, family: str, *, default_head_dim: int | None = None, **own: Any) -> DecoderConfig:
    """``own`` are the fields that the family decides itself. Raises ModelSourceError for what no decoder of ours can do."""
    if raw.get("quantization_config"):
        method = raw.get("quantization_config").get("quant_method", "unknown")
        raise raw.refusal(f"quantization_config names the {method!r} format, which is not supported; use the unquantised model or a GGUF")
    hidden_size, num_heads = raw.size("hidden_size"), raw.size("num_attention_heads")
    head_dim = raw.size("head_dim", default_head_dim or hidden_size // num_heads)
    num_kv_heads = raw.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise raw.refusal(f"num_attention_heads {num_heads} is no multiple of num_key_value_heads {num_kv_heads}")
    activation = raw.text("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise raw.refusal(f"hidden_act {activation!r} is not supported; {', '.join(_ACTIVATIONS)} are")
    max_position = raw.size("max_position_embeddings")
    rope = read_rope(raw, head_dim, max_position)
    return DecoderConfig(
        architecture=family,
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("intermediate_size"),
        num_layers=raw.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=raw.number("rms_norm_eps", 1e-6),
        rope=rope,
        max_model_len=_max_model_len(rope, max_position),
        checkpoint_dtype=read_dtype(raw),
        tie_word_embeddings=raw.flag("tie_word_embeddings"),
        hidden_act=_ACTIVATIONS[activation],
        **own,
    )


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
    window = raw.integer("sliding_window", 4096)
    if raw.get("layer_types") is None:
        first = raw.integer("max_window_layers", 28)
        return tuple(window if i >= first else 0 for i in range(raw.size("num_hidden_layers")))
    return typed_sliding_windows(raw, window)


def typed_sliding_windows(raw: RawConfig, window: int) -> tuple[int, ...]:
    """``window`` for the layers that ``layer_types`` calls sliding; where it is missing, every second layer from the first on."""
    num_layers, types = raw.size("num_hidden_layers"), raw.get("layer_types")
    if types is None:
        return tuple(0 if i % 2 else window for i in range(num_layers))
    known = {"sliding_attention": window, "full_attention": 0}
    if not isinstance(types, list) or len(types) != num_layers or not set(types) <= set(known):
        raise raw.refusal(f"layer_types must name sliding_attention or full_attention for each of {num_layers} layers, not {types!r}")
    return tuple(known[kind] for kind in types)


def _max_model_len(rope: RopeConfig, max_position: int) -> int:
    """With YaRN many configs keep the length of the first training in max_position_embeddings; the factor stretches that."""
    return max(max_position, int(rope.original_max_position * rope.factor)) if rope.type == "yarn" else max_position
