"""A LoRA adapter in PEFT's format: adapter_config.json and adapter_model.safetensors, checked against the layers that it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headway.server.errors import AdapterError
from headway.server.loading.adapter_config import AdapterConfig

WEIGHTS_NAME = "adapter_model.safetensors"
_PICKLE_NAME = "adapter_model.bin"
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Target:
    """A linear that adapters may change: where its update goes, and how many rows each part of it has, in their order."""

    layer: str  # "layers.3.qkv"
    parts: tuple[tuple[str, int], ...]  # (("k", 192),)
    num_columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the update."""
        return sum(rows for _, rows in self.parts), self.num_columns


@dataclass(frozen=True, slots=True)
class Update:
    """What the adapter adds to a checkpoint tensor: ``b @ a``, fp32, with the scale in b."""

    target: Target
    a: Tensor  # [r, K]
    b: Tensor  # [N, r]


def read_adapter(directory: Path, targets: Mapping[str, Target], max_rank: int, elsewhere: frozenset[str] = frozenset()) -> list[Update]:
    """All updates of the adapter. ``targets``: a checkpoint's name of a linear ("model.layers.3.self_attn.k_proj") -> what it is; those
    of ``elsewhere`` are another stage's, which checks them.

    Raises AdapterError, one sentence, for a file that can't be read, a tensor without a place or of the wrong shape, values that are
    not finite, and a rank above ``max_rank``. Tensors are read after all names and shapes were found to be right.
    """
    config = AdapterConfig(directory)
    with _opened(directory) as file:
        pairs = _pairs(file, directory, targets, elsewhere)
        for module, keys in pairs.items():
            _check_shapes(file, module, keys, targets[module], max_rank)
        return [_update(file, module, keys, targets[module], config) for module, keys in pairs.items()]


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


def _pairs(file: Any, directory: Path, targets: Mapping[str, Target], elsewhere: frozenset[str]) -> dict[str, dict[str, str]]:
    """module -> {"A": tensor's name, "B": tensor's name}."""
    pairs: dict[str, dict[str, str]] = {}
    keys = list(file.keys())
    for key in keys:
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"The adapter can't be loaded: its tensor {key[:200]} is no LoRA update of a linear layer.")
        module, side = match.groups()
        if module in elsewhere:
            continue
        if module not in targets and ".experts." in module:
            raise AdapterError(
                f"The adapter can't be loaded: it changes {module[:200]}, and adapters of experts are not served; train one of the "
                "attention layers alone."
            )
        if module not in targets:
            raise AdapterError(
                f"The adapter can't be loaded: it changes {module[:200]}, and this model has no such linear that an adapter may change; "
                "check that it was trained for this model."
            )
        if side in pairs.setdefault(module, {}):
            raise AdapterError(f"The adapter can't be loaded: it has more than one lora_{side} for {module}.")
        pairs[module][side] = key
    for module, sides in pairs.items():
        if len(sides) < 2:
            raise AdapterError(f"The adapter can't be loaded: it has only one of lora_A and lora_B for {module}.")
    if not keys:
        raise AdapterError(f"The adapter can't be loaded: {directory / WEIGHTS_NAME} holds no tensors.")
    return pairs


def _check_shapes(file: Any, module: str, keys: Mapping[str, str], target: Target, max_rank: int) -> None:
    a, b = (tuple(file.get_slice(keys[side]).get_shape()) for side in "AB")
    num_rows, num_columns = target.shape
    rank = a[0] if a else 0
    if a != (rank, num_columns) or b != (num_rows, rank) or rank < 1:
        raise AdapterError(
            f"The adapter can't be loaded: for {module} it has lora_A {list(a)} and lora_B {list(b)}, and this model needs "
            f"[r, {num_columns}] and [{num_rows}, r]; check that it was trained for this model."
        )
    if rank > max_rank:
        raise AdapterError(f"The adapter can't be loaded: its rank is {rank} ({module}), above --max-lora-rank {max_rank}; raise that.")


def _update(file: Any, module: str, keys: Mapping[str, str], target: Target, config: AdapterConfig) -> Update:
    a, b = file.get_tensor(keys["A"]), file.get_tensor(keys["B"])
    if a.dtype not in _DTYPES or b.dtype not in _DTYPES:
        raise AdapterError(f"The adapter can't be loaded: {module} has the types {a.dtype} and {b.dtype}; use fp32, fp16 or bf16.")
    a, b = a.float(), b.float() * config.scale(module, len(a))
    # A NaN in one request's keys would reach others' masked reads of the same page later.
    if not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterError(f"The adapter can't be loaded: {module} has values that are not finite numbers.")
    return Update(target, a, b)
