"""Variables of SageMaker and of other containers, and what they mean here. They count above the defaults only. Pure.

Not here, because they need nothing from us: SAGEMAKER_SAFE_PORT_RANGE (ports for a second listener; there is none),
SAGEMAKER_BATCH, and the worker counts and time-outs of other model servers. The region is server/config/remote.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.server.config.environment import unquoted
from headway.server.config.fields import Setting
from headway.server.config.sources import all_names
from headway.server.config.values import BadValue, parse_bool, parse_text

MODEL_DIRECTORY = Path("/opt/ml/model")
# SageMaker passes bodies of up to 25 MB on.
IMAGE_DEFAULTS: Mapping[str, Any] = {"host": "0.0.0.0", "port": 8080, "max_request_body_bytes": 25 * 1024**2}
_LARGEST_BODY_MB = 1024  # that SageMaker ever sends, to an asynchronous endpoint


@dataclass(slots=True)
class Foreign:
    """What the variables ask for: option -> (value, where from), and sentences about the rest."""

    fallbacks: dict[str, tuple[Any, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_foreign(environ: Mapping[str, str]) -> Foreign:
    """The image's own defaults, and over them what foreign variables say; of two for one option, the first of the table counts."""
    found = Foreign({name: (value, "image default") for name, value in IMAGE_DEFAULTS.items()})
    for name, option, read in reversed(_OPTIONS):
        if text := unquoted(environ.get(name, "")):
            try:
                found.fallbacks[option] = (read(all_names().setting(option), text), f"environment {name}")
            except BadValue as error:
                found.problems.append(f"environment {name}: {error}")
    for name, tell in _TOLD:
        if text := unquoted(environ.get(name, "")):
            try:
                found.warnings += [f"environment {name}: {sentence}" for sentence in tell(text)]
            except BadValue as error:
                found.problems.append(f"environment {name}: {error}")
    return found


def model_directory(environ: Mapping[str, str]) -> Path:
    """Where SageMaker puts a model."""
    path = unquoted(environ.get("SAGEMAKER_MODEL_PATH", ""))
    return Path(path) if path else MODEL_DIRECTORY


def _megabytes(setting: Setting, text: str) -> int:
    """0 means no limit where this is set."""
    if not (_is_number(text) and int(text) <= _LARGEST_BODY_MB):
        raise BadValue(f"expected a whole number of megabytes from 0 (no limit) to {_LARGEST_BODY_MB}, got {text!r}")
    return (int(text) or _LARGEST_BODY_MB) * 1024**2


def _num_gpus(text: str) -> list[str]:
    if not _is_number(text):
        raise BadValue(f"expected a number of GPUs, got {text!r}")
    if int(text) <= 1:
        return []
    return [f"has no effect; set SM_VLLM_TENSOR_PARALLEL_SIZE={int(text)} to split the model over {int(text)} GPUs"]


def _trust_remote_code(text: str) -> list[str]:
    if _bool(text):
        return ["has no effect: code of a model repository is never run; a model that needs its own code is refused when it is loaded"]
    return []


def _multi_model(text: str) -> list[str]:
    if _bool(text):
        raise BadValue(
            "this container serves one model; put several on one endpoint as inference components, "
            "or variants of one model as LoRA adapters (/adapters)"
        )
    return []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _bool(text: str) -> bool:
    value = parse_bool(text)
    if value is None:
        raise BadValue(f"expected true or false, got {text!r}")
    return value


_OPTIONS: tuple[tuple[str, str, Callable[[Setting, str], Any]], ...] = (
    ("SAGEMAKER_BIND_TO_PORT", "port", parse_text),
    ("SAGEMAKER_MAX_REQUEST_SIZE", "max_request_body_bytes", parse_text),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "max_request_body_bytes", _megabytes),
    ("SAGEMAKER_CONTAINER_LOG_LEVEL", "log_level", parse_text),
    ("HF_MODEL_REVISION", "revision", parse_text),
    ("HF_MODEL_QUANTIZE", "quantization", parse_text),
)
# Those that no option answers: a warning, or a refusal.
_TOLD: tuple[tuple[str, Callable[[str], list[str]]], ...] = (
    ("SAGEMAKER_MULTI_MODEL", _multi_model),
    ("SM_NUM_GPUS", _num_gpus),
    ("HF_MODEL_TRUST_REMOTE_CODE", _trust_remote_code),
)
