"""A config.json (or GGUF metadata in that form) read with errors that name the key, the value and the file."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.layers.rope_config import RopeConfig, RopeType

_MISSING: Any = object()
LARGEST_SIZE = 2**25  # the longest contexts have 10 million tokens
# Counts of what is built one by one, and widths of what is computed for each position, in a process whose memory would fill for minutes
# before a weight is missed.
_LARGEST_COUNTS = dict.fromkeys(("num_hidden_layers", "n_layers", "num_nextn_predict_layers"), 2**12) | dict.fromkeys(
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "head_dim", "qk_rope_head_dim"), 2**13
)
_LARGEST_NUMBER = float(2**63)  # beyond any in a model; what is made of two of them is still finite
_ROPE_TYPES: dict[str, RopeType] = {
    "default": "default",
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
}


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
        value, most = self.integer(key, default), _LARGEST_COUNTS.get(key, LARGEST_SIZE)
        if not 1 <= value <= most:
            raise self.refusal(f"{key} must be from 1 to {most}, not {reprlib.repr(value)}")
        return value

    def count(self, key: str) -> int:
        """Of something that a model may have none of: 0 where the key is absent."""
        value, most = self.integer(key, 0), _LARGEST_COUNTS.get(key, LARGEST_SIZE)
        if not 0 <= value <= most:
            raise self.refusal(f"{key} must be from 0 to {most}, not {reprlib.repr(value)}")
        return value

    def number(self, key: str, default: float = _MISSING) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.refusal(f"{key} must be a number, not {value!r}")
        # A whole number may have thousands of digits, which no float has, and JSON as Python reads it has NaN and Infinity.
        if not abs(value) <= _LARGEST_NUMBER:
            raise self.refusal(f"{key} must be a number that a model can have, not {reprlib.repr(value)}")
        return float(value)

    def positive(self, key: str, default: float = _MISSING) -> float:
        """A number above 0: what is divided by, or has its root or logarithm taken."""
        value = self.number(key, default)
        if value < 1 / _LARGEST_NUMBER:
            raise self.refusal(f"{key} must be a number above 0, not {value:g}")
        return value

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

    def renamed(self, **names: str) -> RawConfig:
        """The same, whose keys ``names`` gives their names in other families: renamed(hidden_size="n_embd")."""
        return self.with_values(**{key: self.values.get(name) for key, name in names.items()})

    def with_values(self, **values: Any) -> RawConfig:
        return RawConfig({**self.values, **values}, self.origin)

    def refusal(self, why: str) -> ModelSourceError:
        return ModelSourceError(f"This model can't be served: in its {self.origin}, {why}.")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is _MISSING:
                raise self.refusal(f"{key} is missing")
            return default
        return value


def read_rope(raw: RawConfig, head_dim: int, max_position_embeddings: int, default_theta: float = 10000.0) -> RopeConfig:
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
    rotary_dim = _rotary_dim(rope, head_dim)
    theta = rope.positive("rope_theta", default_theta)
    if kind == "default":
        return RopeConfig(rotary_dim, theta)
    if kind == "dynamic":
        if rotary_dim == 2:
            raise raw.refusal("rope type 'dynamic' needs more than the 2 numbers that are rotated of a head")
        return RopeConfig(rotary_dim, theta, kind, rope.positive("factor"), max_position_embeddings)
    original = raw.size("original_max_position_embeddings", rope.size("original_max_position_embeddings", max_position_embeddings))
    if kind == "longrope":
        return _read_longrope(rope, rotary_dim, theta, original, max_position_embeddings)
    factor = rope.positive("factor", max_position_embeddings / original) if kind == "yarn" else rope.positive("factor")
    if kind == "llama3":
        return RopeConfig(
            rotary_dim,
            theta,
            kind,
            factor,
            original,
            low_freq_factor=rope.positive("low_freq_factor"),
            high_freq_factor=rope.positive("high_freq_factor"),
        )
    if kind == "linear":
        return RopeConfig(rotary_dim, theta, kind, factor)
    if theta == 1:
        raise raw.refusal("rope_theta must not be 1 with rope type 'yarn', which takes its logarithm for a measure")
    return RopeConfig(
        rotary_dim,
        theta,
        kind,
        factor,
        original,
        beta_fast=_turns(rope, "beta_fast", 32.0),
        beta_slow=_turns(rope, "beta_slow", 1.0),
        attention_factor=_yarn_attention_factor(rope, factor),
        truncate=rope.flag("truncate", True),
    )


def _rotary_dim(rope: RawConfig, head_dim: int) -> int:
    part = rope.number("partial_rotary_factor", 1.0)
    if not 0 < part <= 1:
        raise rope.refusal(f"partial_rotary_factor must be above 0 and at most 1, not {part:g}")
    rotary_dim = int(head_dim * part)
    if rotary_dim < 2 or rotary_dim % 2:
        raise rope.refusal(f"heads of {head_dim} numbers have {rotary_dim} that are rotated, which must be an even number above 0")
    return rotary_dim


def _read_longrope(rope: RawConfig, rotary_dim: int, theta: float, original: int, max_position_embeddings: int) -> RopeConfig:
    """Ding et al., arXiv:2402.13753."""
    factor = rope.positive("factor", max_position_embeddings / original)
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return RopeConfig(
        rotary_dim,
        theta,
        "longrope",
        original_max_position=original,
        attention_factor=rope.number("attention_factor", magnitude),
        short_factors=_factors(rope, "short_factor", rotary_dim // 2),
        long_factors=_factors(rope, "long_factor", rotary_dim // 2),
    )


def _factors(rope: RawConfig, key: str, count: int) -> tuple[float, ...]:
    values = rope.get(key)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, int | float) and 0 < value <= _LARGEST_NUMBER for value in values)
    ):
        raise rope.refusal(f"{key} of its rope parameters must be {count} numbers above 0")
    return tuple(float(value) for value in values)


def _turns(rope: RawConfig, key: str, default: float) -> float:
    """0 counts as absent."""
    return rope.positive(key, default) if rope.number(key, default) else default


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
