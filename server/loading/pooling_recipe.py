"""How a model's hidden states become vectors or scores: what its files say, in sentence-transformers' layout or in config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from headway.server.errors import ModelSourceError
from headway.server.models.base import ModelConfig, PoolingKind
from headway.server.models.raw_config import RawConfig, labels_of
from headway.server.source.files import ModelFiles

Activation = Literal["softmax", "sigmoid", "identity"]

_POOLING_KEYS: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
_DENSE_ACTIVATIONS = {"Tanh": True, "Identity": False}


@dataclass(frozen=True, slots=True)
class DenseModule:
    """A projection of pooled vectors, in a folder of its own."""

    directory: Path
    has_tanh: bool


@dataclass(frozen=True, slots=True)
class PoolingRecipe:
    """``normalizes`` is of vectors, ``activation`` of scores. ``matryoshka``: see PoolingInfo. ``max_tokens``: of a text, None: as the
    model's config says. ``dimensions``: of a vector where a request does not say, None: all."""

    kind: PoolingKind
    normalizes: bool = True
    activation: Activation = "softmax"
    labels: tuple[str, ...] = ()
    dense: tuple[DenseModule, ...] = ()
    matryoshka: tuple[int, ...] | None = None
    max_tokens: int | None = None
    dimensions: int | None = None


def read_recipe(files: ModelFiles, raw: RawConfig, config: ModelConfig, default: PoolingKind) -> PoolingRecipe:
    """Raises ModelSourceError for a module or a value that is not served."""
    recipe = PoolingRecipe(default, matryoshka=_matryoshka(raw))
    if config.num_labels:
        kind = _classifier_pooling(raw, default)
        return replace(recipe, kind=kind, labels=labels_of(raw), activation=_activation(raw, config.num_labels))
    if files.directory is None or not (files.directory / "modules.json").is_file():
        return recipe
    recipe = replace(recipe, normalizes=False, max_tokens=_max_tokens(files.directory))
    for module in _modules(files.directory):
        recipe = _with_module(recipe, module, files.directory)
    return recipe


def _with_module(recipe: PoolingRecipe, module: RawConfig, directory: Path) -> PoolingRecipe:
    kind, folder = module.text("type").rpartition(".")[2], module.text("path", "")
    if "/" in folder or folder == "..":
        raise module.refusal(f"a module's path must be a folder beside it, not {folder!r}")
    where = directory / folder
    if kind == "Transformer":
        return recipe
    if kind == "Pooling":
        return replace(recipe, kind=_kind(_read(where / "config.json")))
    if kind == "Normalize":
        return replace(recipe, normalizes=True)
    if kind == "Dense":
        activation = _read(where / "config.json").text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
        if activation not in _DENSE_ACTIVATIONS:
            raise module.refusal(f"the Dense module in {where.name} has the activation {activation}; Tanh and Identity are supported")
        return replace(recipe, dense=(*recipe.dense, DenseModule(where, _DENSE_ACTIVATIONS[activation])))
    raise module.refusal(f"the module {kind} is not supported; Transformer, Pooling, Dense and Normalize are")


def _kind(pooling: RawConfig) -> PoolingKind:
    name = pooling.get("pooling_mode")
    if isinstance(name, str):  # newer files
        known: dict[str, PoolingKind] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
        if name not in known:
            raise pooling.refusal(f"pooling_mode {name!r} is not supported; {', '.join(known)} are")
        return known[name]
    chosen = [key for key, value in pooling.values.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLING_KEYS:
        raise pooling.refusal(f"the pooling is {' and '.join(chosen) or 'not given'}; one of {', '.join(_POOLING_KEYS)} is supported")
    return _POOLING_KEYS[chosen[0]]


def _classifier_pooling(raw: RawConfig, default: PoolingKind) -> PoolingKind:
    """ModernBERT's config says it; of other architectures it is known."""
    known: dict[str, PoolingKind] = {"cls": "cls", "mean": "mean", default: default}
    name = raw.text("classifier_pooling", default)
    if name not in known:
        raise raw.refusal(f"classifier_pooling {name!r} is not supported; {', '.join(known)} are")
    return known[name]


def _activation(raw: RawConfig, num_labels: int) -> Activation:
    """sentence-transformers' word on it, then transformers'."""
    own = raw.get("sentence_transformers")
    name = own.get("activation_fn") if isinstance(own, dict) else raw.get("sbert_ce_default_activation_function")
    if name is not None:
        short = str(name).rpartition(".")[2]
        if short not in _ACTIVATIONS:
            raise raw.refusal(f"the activation {name!r} of its scores is not supported; {', '.join(_ACTIVATIONS)} are")
        return _ACTIVATIONS[short]
    problem = raw.get("problem_type")
    if problem == "regression":
        return "identity"
    return "sigmoid" if num_labels == 1 or problem == "multi_label_classification" else "softmax"


def _matryoshka(raw: RawConfig) -> tuple[int, ...] | None:
    sizes = raw.get("matryoshka_dimensions")
    if sizes is None:
        return () if raw.flag("is_matryoshka") else None
    if not isinstance(sizes, list) or not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise raw.refusal(f"matryoshka_dimensions must be a list of whole numbers, not {sizes!r}")
    return tuple(sorted(sizes))


def _max_tokens(directory: Path) -> int | None:
    path = directory / "sentence_bert_config.json"
    return (_read(path).integer("max_seq_length", 0) or None) if path.is_file() else None


def _modules(directory: Path) -> list[RawConfig]:
    path = directory / "modules.json"
    modules = _json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelSourceError(f"{path} holds no list of modules; copy or download it again.")
    return [RawConfig(module, f"modules.json ({path})") for module in modules]


def _read(path: Path) -> RawConfig:
    values: Any = _json(path)
    if not isinstance(values, dict):
        raise ModelSourceError(f"{path} holds no JSON object; copy or download it again.")
    return RawConfig(values, f"{path.name} ({path})")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSourceError(f"{path} is missing, and modules.json names it; copy or download the model again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(f"{path} cannot be read as JSON ({error}); copy or download it again.") from error
