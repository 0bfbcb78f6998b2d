"""A config.json (or GGUF metadata in that form) read with errors that name the key, the value and the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.layers.rope_config import RopeConfig, RopeType

_MISSING: Any = object()
_LARGEST_SIZE = 2**25  # the longest contexts have 10 million tokens
_ROPE_TYPES: dict[str, RopeType] = {"default": "default", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}


class RawConfig:
    """Typed look-ups. A key that is null counts as absent; without a default it must be there."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values = values
        self.origin = origin  # for messages: "config.json of /models/x"

    def integer(self, key: str, default: int = _MISSING) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refusal(f"{key} must be a whole number, not {value!r}")
        return value

    def size(self, key: str, default: int = _MISSING) -> int:
        """A count of something that every model has: neither 0 nor more than any model could have, since the file is anybody's."""
        value = self.integer(key, default)
        if not 1 <= value <= _LARGEST_SIZE:
            raise self.refusal(f"{key} must be from 1 to {_LARGEST_SIZE}, not {value}")
        return value

    def number(self, key: str, default: float = _MISSING) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.refusal(f"{key} must be a number, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"{key} must be true or false, not {value!r}")
        return value

    def text(self, key: str, default: str = _MISSING) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.refusal(f"{key} must be text, not {value!r}")
        return value

    def get(self, key: str) -> Any:
        """The raw value, None where absent."""
        return self.values.get(key)

    def refusal(self, why: str) -> ModelSourceError:
        return ModelSourceError(f"This model can't be served: in its {self.origin}, {why}.")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is _MISSING:
                raise self.refusal(f"{key} is missing")
            return default
        return value


def read_rope(raw: RawConfig, head_dim: int, max_position_embeddings: int) -> RopeConfig:
    """From ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before). Refuses types we don't compute."""
    own = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(own, dict) or any(isinstance(value, dict) for value in own.values()):
        raise raw.refusal("rope parameters differ between layers, which is not supported")
    keys = {"rope_theta": raw.get("rope_theta"), "partial_rotary_factor": raw.get("partial_rotary_factor")}
    rope = RawConfig({**keys, **own}, raw.origin)
    name = rope.text("rope_type", rope.text("type", "default"))
    if name not in _ROPE_TYPES:
        raise raw.refusal(f"rope type {name!r} is not supported; {', '.join(_ROPE_TYPES)} are")
    kind = _ROPE_TYPES[name]
    rotary_dim = int(head_dim * rope.number("partial_rotary_factor", 1.0))
    theta = rope.number("rope_theta", 10000.0)
    if kind == "default":
        return RopeConfig(rotary_dim, theta)
    original = raw.integer("original_max_position_embeddings", rope.integer("original_max_position_embeddings", max_position_embeddings))
    factor = rope.number("factor", max_position_embeddings / original) if kind == "yarn" else rope.number("factor")
    if kind == "llama3":
        return RopeConfig(
            rotary_dim,
            theta,
            kind,
            factor,
            original,
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
        )
    if kind == "linear":
        return RopeConfig(rotary_dim, theta, kind, factor)
    return RopeConfig(
        rotary_dim,
        theta,
        kind,
        factor,
        original,
        beta_fast=rope.number("beta_fast", 32.0) or 32.0,
        beta_slow=rope.number("beta_slow", 1.0) or 1.0,
        attention_factor=_yarn_attention_factor(rope, factor),
        truncate=rope.flag("truncate", True),
    )


def _yarn_attention_factor(rope: RawConfig, factor: float) -> float:
    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, mscale_all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    default = magnitude(mscale) / magnitude(mscale_all_dim) if mscale and mscale_all_dim else magnitude(1.0)
    return rope.number("attention_factor", default)


def num_labels_of(raw: RawConfig) -> int:
    """Of a classifier; two where the config does not say, as transformers has it."""
    return len(labels_of(raw))


def labels_of(raw: RawConfig) -> tuple[str, ...]:
    """A classifier's, in the order of its scores."""
    names = raw.get("id2label")
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(raw.size("num_labels", 2)))
    if not isinstance(names, dict) or not names or {str(key) for key in names} != {str(i) for i in range(len(names))}:
        raise raw.refusal(f"id2label must name the labels from 0 on, not {names!r}")
    by_index = {str(key): str(name) for key, name in names.items()}
    return tuple(by_index[str(i)] for i in range(len(names)))
