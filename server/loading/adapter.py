"""A LoRA adapter in PEFT's format: adapter_config.json and adapter_model.safetensors, checked against the layers that it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headway.server.errors import AdapterError
from headway.server.loading.adapter_config import AdapterConfig
from headway.server.loading.adapter_tables import MORE_TOKENS, check_copy
from headway.server.models.base import ReadPlain

WEIGHTS_NAME = "adapter_model.safetensors"
_PICKLE_NAME = "adapter_model.bin"
_PREFIX = r"(?:base_model\.model\.)?"
_LINEAR_KEY = re.compile(_PREFIX + r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_EMBEDDING_KEY = re.compile(_PREFIX + r"(.+)\.lora_embedding_([AB])(?:\.[^.]+)?")
_COPY_KEY = re.compile(_PREFIX + r"(.+?)(?:\.base_layer)?\.weight")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Target:
    """A linear, or the embedding, that adapters may change: where its update goes, and how many rows each part of it has, in their
    order."""

    layer: str  # "layers.3.qkv"
    parts: tuple[tuple[str, int], ...]  # (("k", 192),)
    num_columns: int
    is_embedding: bool = False
    table: str = ""  # the checkpoint's tensor that it is, of the two tables over the vocabulary

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the update."""
        return sum(rows for _, rows in self.parts), self.num_columns

    @property
    def sides(self) -> str:
        """What the two halves of its update are called, but for the last letter."""
        return "lora_embedding_" if self.is_embedding else "lora_"


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """What adapters are held against. A module is a checkpoint's name of a linear, such as "model.layers.3.self_attn.k_proj"."""

    targets: Mapping[str, Target]
    elsewhere: frozenset[str] = frozenset()  # modules of other stages, which check them
    tied: tuple[str, str] | None = None  # the modules of embedding and head, where these are one table
    read_plain: ReadPlain | None = None  # see LoadedModel


@dataclass(frozen=True, slots=True)
class Update:
    """What the adapter adds to a checkpoint tensor: ``b @ a``, fp32, with the scale in one of them."""

    target: Target
    a: Tensor  # [r, K]
    b: Tensor  # [N, r]


def read_adapter(directory: Path, model: AdaptedModel, max_rank: int) -> list[Update]:
    """All updates of the adapter.

    Raises AdapterError, one sentence, for a file that can't be read, a tensor without a place or of the wrong shape, values that are
    not finite, and a rank above ``max_rank``. Tensors are read after all names and shapes were found to be right.
    """
    config = AdapterConfig(directory)
    with _opened(directory) as file:
        found = _sorted_keys(file, directory, model)
        for module, keys in found.pairs.items():
            _check_shapes(file, module, keys, model.targets[module], max_rank)
        if model.tied is not None and config.ties_updates:
            _check_tied(file, *model.tied)
        for module, key in found.copies:
            target = model.targets[module]
            check_copy(file.get_slice(key), module, target.table, target.shape, model.read_plain)
        return [_update(file, module, keys, model.targets[module], config) for module, keys in found.pairs.items()]


@contextmanager
def _opened(directory: Path) -> Iterator[Any]:
    path = directory / WEIGHTS_NAME
    if not path.is_file():
        why = f"; {_PICKLE_NAME} is there, which is a pickle and never loaded: save it as safetensors" if _has_pickle(directory) else ""
        raise AdapterError(f"The adapter can't be loaded: {path} is missing{why}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"The adapter can't be loaded: {path} is damaged or cut off ({error}); copy it again.") from error


def _has_pickle(directory: Path) -> bool:
    return (directory / _PICKLE_NAME).is_file()


@dataclass(slots=True)
class _Keys:
    """Names of a file's tensors, by module."""

    pairs: dict[str, dict[str, str]] = field(default_factory=dict)  # {"A": .., "B": ..}
    copies: list[tuple[str, str]] = field(default_factory=list)  # (module, name of a copy of the table that it is)


def _sorted_keys(file: Any, directory: Path, model: AdaptedModel) -> _Keys:
    found, others, keys = _Keys(), [], list(file.keys())
    for key in keys:
        match = _LINEAR_KEY.fullmatch(key) or _EMBEDDING_KEY.fullmatch(key)
        if match is not None:
            _add_side(found.pairs, match, model)
        else:
            others.append(key)
    for key in others:
        copied = _COPY_KEY.fullmatch(key)
        module = copied[1] if copied is not None else ""
        if module in model.targets and model.targets[module].table:
            found.copies.append((module, key))
        elif module not in model.elsewhere:
            raise AdapterError(f"The adapter can't be loaded: its tensor {key[:200]} is no LoRA update of a linear layer or an embedding.")
    for module, sides in found.pairs.items():
        if len(sides) < 2:
            own = model.targets[module].sides
            raise AdapterError(f"The adapter can't be loaded: it has only one of {own}A and {own}B for {module}.")
    if not keys:
        raise AdapterError(f"The adapter can't be loaded: {directory / WEIGHTS_NAME} holds no tensors.")
    return found


def _add_side(pairs: dict[str, dict[str, str]], match: re.Match[str], model: AdaptedModel) -> None:
    module, side = match.groups()
    if module in model.elsewhere:
        return
    if module not in model.targets and ".experts." in module:
        raise AdapterError(
            f"The adapter can't be loaded: it changes {module[:200]}, and adapters of experts are not served; train one of the "
            "attention layers alone."
        )
    if module not in model.targets or model.targets[module].is_embedding != (match.re is _EMBEDDING_KEY):
        kind = "embedding" if match.re is _EMBEDDING_KEY else "linear"
        raise AdapterError(
            f"The adapter can't be loaded: it changes {module[:200]}, and this model has no such {kind} that an adapter may change; "
            "check that it was trained for this model."
        )
    if side in pairs.setdefault(module, {}):
        raise AdapterError(f"The adapter can't be loaded: it has more than one {model.targets[module].sides}{side} for {module}.")
    pairs[module][side] = match.string


def _check_shapes(file: Any, module: str, keys: Mapping[str, str], target: Target, max_rank: int) -> None:
    a, b = (tuple(file.get_slice(keys[side]).get_shape()) for side in "AB")
    # An embedding gives a row of its table where a linear multiplies by it: PEFT's halves are those of the transposed table.
    num_columns, num_rows = target.shape if target.is_embedding else target.shape[::-1]
    rank = a[0] if a else 0
    if a != (rank, num_columns) or b != (num_rows, rank) or rank < 1:
        num_tokens = (a if target.is_embedding else b[::-1])[-1:]
        is_larger = bool(target.table) and num_tokens > target.shape[:1]
        why = MORE_TOKENS if is_larger else "check that it was trained for this model"
        raise AdapterError(
            f"The adapter can't be loaded: for {module} it has {target.sides}A {list(a)} and {target.sides}B {list(b)}, and this model "
            f"needs [r, {num_columns}] and [{num_rows}, r]; {why}."
        )
    if rank > max_rank:
        raise AdapterError(f"The adapter can't be loaded: its rank is {rank} ({module}), above --max-lora-rank {max_rank}; raise that.")


def _check_tied(file: Any, embedding: str, head: str) -> None:
    """That both have the one update which they were trained with: PEFT saves it twice, and takes the one that it reads last."""
    found: dict[tuple[str, str, bool], str] = {}
    for key in list(file.keys()):
        if (match := _EMBEDDING_KEY.fullmatch(key) or _LINEAR_KEY.fullmatch(key)) is not None:
            found[match[1], match[2], match.re is _EMBEDDING_KEY] = key
    for side, other in ("AB", "BA"):
        own, heads = found.get((embedding, side, True)), found.get((head, other, False))
        is_same = own is heads is None
        if own is not None and heads is not None:
            shape, others = (tuple(file.get_slice(key).get_shape()) for key in (own, heads))
            # In fp32, since the two may be of different types; of another stage's tensors no shape is known to be right.
            is_same = len(shape) == 2 and shape == others[::-1]
            is_same = is_same and torch.equal(file.get_tensor(own).float(), file.get_tensor(heads).float().t())
        if not is_same:
            raise AdapterError(
                "The adapter can't be loaded: its config has ensure_weight_tying, and its updates of "
                f"{embedding} and {head} are not the same one; save it anew with PEFT 0.19 or later."
            )


def _update(file: Any, module: str, keys: Mapping[str, str], target: Target, config: AdapterConfig) -> Update:
    a, b = file.get_tensor(keys["A"]), file.get_tensor(keys["B"])
    if a.dtype not in _DTYPES or b.dtype not in _DTYPES:
        raise AdapterError(f"The adapter can't be loaded: {module} has the types {a.dtype} and {b.dtype}; use fp32, fp16 or bf16.")
    a, b = a.float(), b.float() * config.scale(module, len(a))
    if target.is_embedding:
        a, b = b.t(), a.t()
    # A NaN in one request's keys would reach others' masked reads of the same page later.
    if not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterError(f"The adapter can't be loaded: {module} has values that are not finite numbers.")
    return Update(target, a, b)
