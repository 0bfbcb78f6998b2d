"""A PEFT adapter's adapter_config.json: what of it is served, and the scale of each update."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from headway.server.errors import AdapterError
from headway.server.words import cut

CONFIG_NAME = "adapter_config.json"
_MAX_BYTES = 1024 * 1024
_LARGEST = 1e30  # far beyond any that is meant; a whole number may have more digits than a float can hold
_PLAIN_KEY = re.compile(r"[\w.]+")  # PEFT takes keys of patterns for regular expressions, and one can keep a server busy for hours
# Fields that change the arithmetic when they hold anything -> what to call it.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "modules_to_save": "modules_to_save (layers trained in full)",
    "lora_bias": "biases (lora_bias)",
    "layer_replication": "layer_replication",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "target_parameters",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "arrow_config": "Arrow routing (arrow_config)",
}
_BOOLEANS = ("use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
# Ways to begin the training that change the base model too, so that the adapter alone is half of what was trained.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


class AdapterConfig:
    """Typed look-ups in the file. Raises AdapterError for what this version can't serve, with the reason."""

    def __init__(self, directory: Path) -> None:
        self._origin = directory / CONFIG_NAME
        self._values = _read(self._origin)
        self._check()
        self._rank = self._number("r", 8)
        self._alpha = self._number("lora_alpha", 8)
        self._rank_pattern = self._numbers("rank_pattern")
        self._alpha_pattern = self._numbers("alpha_pattern")

    def scale(self, module: str, rank: int) -> float:
        """What the update of ``module`` ("model.layers.0.mlp.up_proj"), whose A has ``rank`` rows, is multiplied by."""
        named = _of_module(self._rank_pattern, module, self._rank)
        if named != rank:
            raise self._refusal(f"gives {module} the rank {named:g}, and its weights have the rank {rank}")
        alpha = _of_module(self._alpha_pattern, module, self._alpha)
        return alpha / (math.sqrt(rank) if self._values.get("use_rslora") else rank)

    @property
    def ties_updates(self) -> bool:
        """Whether a tied head was trained with the embedding's own update."""
        return bool(self._values.get("ensure_weight_tying"))

    def _check(self) -> None:
        values = self._values
        for key in _BOOLEANS:
            if not isinstance(values.get(key), bool | None):
                raise self._refusal(f"has {key} {_shown(values[key])}; it must be true or false")
        if values.get("peft_type") != "LORA":
            raise self._refusal(f"has peft_type {_shown(values.get('peft_type'))}; this version serves LORA")
        if values.get("bias", "none") != "none":
            raise self._refusal(f"has bias {_shown(values['bias'])}; this version serves adapters with bias 'none'")
        if found := [what for key, what in _REFUSED.items() if values.get(key)]:
            how = "merge it into the model (PEFT's merge_and_unload) and serve that"
            raise self._refusal(f"asks for {', '.join(found)}, which this version does not serve: {how}")
        start = values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
            raise self._refusal(f"has init_lora_weights {_shown(start)}, which changed the base model too: convert it to plain LoRA")

    def _number(self, key: str, default: float) -> float:
        return self._positive(key, self._values.get(key, default))

    def _numbers(self, key: str) -> dict[str, float]:
        values = self._values.get(key) or {}
        if not isinstance(values, dict):
            raise self._refusal(f"has {key} {_shown(values)}; it must be an object")
        if found := [name for name in values if not _PLAIN_KEY.fullmatch(name)]:
            raise self._refusal(f"has the regular expression {_shown(found[0])} in {key}; this version takes names of modules there")
        return {name: self._positive(f"{key}.{name}", value) for name, value in values.items()}

    def _positive(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
            raise self._refusal(f"has {key} {_shown(value)}; it must be a number above 0, of {_LARGEST:g} at most")
        return float(value)

    def _refusal(self, why: str) -> AdapterError:
        return AdapterError(f"The adapter can't be loaded: {self._origin} {why}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AdapterError(f"The adapter can't be loaded: {path} can't be read ({error.strerror or error}).") from error
    try:
        values = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        values = None  # what is in the file is not shown: it may be anybody's
    if not isinstance(values, dict):
        raise AdapterError(f"The adapter can't be loaded: {path} is not a JSON object of at most 1 MiB.")
    return values


def _of_module(pattern: dict[str, float], module: str, default: float) -> float:
    """The value of the first key that is the module's name, or the end of it behind a dot: PEFT's rule."""
    return next((value for key, value in pattern.items() if module == key or module.endswith(f".{key}")), default)


def _shown(value: Any) -> str:
    return cut(re.sub(r"[^ -~]", "?", repr(value)), 80)
