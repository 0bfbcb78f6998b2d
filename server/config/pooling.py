"""Options about models that turn texts into vectors or scores instead of generating."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from headway.server.config.fields import Topic, option

PoolingType = Literal["mean", "cls", "last", "max"]
PoolerTask = Literal["embed", "token_embed", "classify"]
_ACTIVATION_KEYS = ("use_activation", "normalize", "softmax", "activation")  # the first is vLLM's today, the others were
_TYPE_KEYS = ("pooling_type", "seq_pooling_type")
_KEYS = ("task", *_TYPE_KEYS, *_ACTIVATION_KEYS, "dimensions")
_SYNONYMS = {"lasttoken": "last"}


class PoolingConfig(Topic):
    """Pooling."""

    runner: Literal["auto", "generate", "pooling"] = option(
        "auto",
        "generate: answer with text; pooling: turn texts into vectors or scores. auto: as the architecture says, and pooling for a decoder "
        "with the files of sentence-transformers.",
    )
    convert: Literal["auto", "none", "embed", "classify"] = option(
        "auto", "Serve a model for vectors (embed) or for the scores of labels (classify), whatever its architecture's name says."
    )
    pooler_config: dict[str, Any] = option(
        {},
        'JSON laid over what the model\'s files say, such as {"pooling_type": "MEAN"}: pooling_type (CLS, LAST, MEAN, MAX), '
        "use_activation, dimensions, task.",
    )
    max_pooling_inputs: int = option(2048, "Most texts of one request for embeddings, scores or labels.", ge=1, le=65536)


@dataclass(frozen=True, slots=True)
class PoolerChoice:
    """--pooler-config understood; None: as the model's files say."""

    kind: PoolingType | None
    use_activation: bool | None
    dimensions: int | None
    task: PoolerTask | None


def pooler_choice(pooling: PoolingConfig) -> PoolerChoice:
    """Of options that have no problems."""
    values = {key: value for key, value in pooling.pooler_config.items() if value is not None}
    kind: Any = next((_kind(values[key]) for key in _TYPE_KEYS if key in values), None)
    activation = next((values[key] for key in _ACTIVATION_KEYS if key in values), None)
    return PoolerChoice(kind, activation, values.get("dimensions"), values.get("task"))


def pooling_problems(pooling: PoolingConfig) -> list[str]:
    found = [problem for key, value in pooling.pooler_config.items() if value is not None and (problem := _problem(key, value))]
    if pooling.runner == "generate" and pooling.convert in ("embed", "classify"):
        found.append(f"--convert {pooling.convert} is for pooling, and --runner is generate: leave one of them out")
    return found


def _problem(key: str, value: Any) -> str | None:
    start = f"--pooler-config: {key}"
    if key not in _KEYS:
        return f"{start} is not supported; {', '.join(_KEYS)} are"
    if key in _TYPE_KEYS and _kind(value) not in get_args(PoolingType):
        return f"{start} must be CLS, LAST, MEAN or MAX, got {value!r}"
    if key in _ACTIVATION_KEYS and not isinstance(value, bool):
        return f"{start} must be true or false, got {value!r}"
    if key == "dimensions" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        return f"{start} must be a whole number of at least 1, got {value!r}"
    if key == "task" and value not in get_args(PoolerTask):
        return f"{start} must be one of {', '.join(get_args(PoolerTask))}, got {value!r}"
    return None


def _kind(value: Any) -> str:
    text = str(value).lower()
    return _SYNONYMS.get(text, text)
