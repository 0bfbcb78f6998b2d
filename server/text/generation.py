"""The model's own defaults for sampling, from generation_config.json or GGUF metadata."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.server.errors import ConfigError
from headway.server.source.files import ModelFiles
from headway.server.source.gguf_metadata import read_gguf_metadata
from headway.server.text.model_json import read_json
from headway.server.types import LOWEST_REPETITION_PENALTY

_GGUF_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
# key -> (lowest, highest, whole number); the lowest of top_p is excluded
_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 1e6, False),
    "top_p": (0, 1, False),
    "top_k": (-1, 2**31, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (LOWEST_REPETITION_PENALTY, 1e6, False),
    "max_new_tokens": (1, 2**31, True),
}
_OVERRIDABLE = (*_RANGES, "eos_token_id")


@dataclass(frozen=True)
class GenerationDefaults:
    """What a request that says nothing gets; None where the model says nothing either. `max_tokens` is also the highest allowed."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def load_generation_defaults(files: ModelFiles, mode: str, override: Mapping[str, Any]) -> GenerationDefaults:
    """The defaults of --generation-config `mode` ("auto": the model's; "vllm": none; else a directory) with `override` laid over.

    Raises ConfigError for a directory without the file and for values that can't be used, ModelSourceError for a damaged file.
    """
    if mode == "auto":
        values, where = _of_model(files), f"the generation config of {files.name}"
    elif mode == "vllm":
        values, where = {}, ""
    else:
        path = Path(mode).expanduser() / "generation_config.json"
        if not path.is_file():
            raise ConfigError(
                [f"--generation-config {mode}: there is no {path}; give auto, vllm or a directory that holds generation_config.json"]
            )
        values, where = read_json(path), str(path)
    problems = _problems({key: values[key] for key in _OVERRIDABLE if key in values}, where) + _problems(
        override, "--override-generation-config"
    )
    if problems:
        raise ConfigError(problems)
    values = {key: value for key, value in {**values, **override}.items() if value is not None}
    top_k = values.get("top_k")
    return GenerationDefaults(
        temperature=values.get("temperature"),
        top_p=values.get("top_p"),
        top_k=None if top_k is None else max(int(top_k), 0),
        min_p=values.get("min_p"),
        repetition_penalty=values.get("repetition_penalty"),
        max_tokens=values.get("max_new_tokens"),
        eos_token_ids=_ids(values.get("eos_token_id")),
    )


def eos_of(files: ModelFiles) -> tuple[int, ...]:
    """End-of-sequence tokens that the model's generation_config.json names, else its config.json."""
    if files.directory is None:
        return ()
    for name in ("generation_config.json", "config.json"):
        if found := _ids(read_json(files.directory / name).get("eos_token_id")):
            return found
    return ()


def _of_model(files: ModelFiles) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if files.kind == "gguf":
        metadata = read_gguf_metadata(files.path, arrays=False)
        values = {name: metadata[key] for key, name in _GGUF_KEYS.items() if key in metadata}
    if files.directory is not None:
        values |= read_json(files.directory / "generation_config.json")
    return values


def _problems(values: Mapping[str, Any], where: str) -> list[str]:
    problems = []
    for key, value in values.items():
        if key == "eos_token_id":
            if value is not None and not _ids(value):
                problems.append(f"{where}: eos_token_id is {value!r}; it must be a token id or a list of them")
        elif key not in _RANGES:
            close = difflib.get_close_matches(key, _OVERRIDABLE, n=1)
            hint = f"did you mean {close[0]}" if close else f"known are {', '.join(_OVERRIDABLE)}"
            problems.append(f"{where}: unknown key {key!r}; {hint}")
        elif value is not None and (problem := _out_of_range(key, value)):
            problems.append(f"{where}: {key} is {value!r}; {problem}")
    return problems


def _out_of_range(key: str, value: Any) -> str | None:
    low, high, whole = _RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"it must be a {'whole ' if whole else ''}number"
    if not low <= value <= high or (key == "top_p" and value == 0):
        return f"it must lie between {low:g} and {high:g}" + (", above 0" if key == "top_p" else "")
    return None


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(values) if values and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values) else ()
