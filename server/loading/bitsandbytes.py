"""A checkpoint that bitsandbytes has quantised to 4 bits (QLoRA: Dettmers et al., arXiv:2305.14314) as one of plain weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor

_STATE = "quant_state.bitsandbytes__"  # JSON as bytes; the name ends with the kind of the numbers
_KINDS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_LARGEST_BLOCK = 1 << 16


class BitsAndBytesCheckpoint:
    """A weight is quantised where the file has a state beside it, whatever the config leaves out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint

    def tensors(self) -> list[CheckpointTensor]:
        """Raises ModelSourceError where a weight's state can't be read."""
        tensors = self._checkpoint.tensors()
        names = {tensor.name for tensor in tensors}
        beside: dict[str, dict[str, CheckpointTensor]] = {}
        plain: dict[str, CheckpointTensor] = {}
        for tensor in tensors:
            weight, kind = _parted(tensor.name)
            if kind and weight in names:
                beside.setdefault(weight, {})[kind] = tensor
            else:
                plain[tensor.name] = tensor
        return [self._weight(tensor, beside[name]) if name in beside else tensor for name, tensor in plain.items()]

    def _weight(self, packed: CheckpointTensor, parts: Mapping[str, CheckpointTensor]) -> CheckpointTensor:
        weight = _Weight(self.origin, packed, parts, _read_state(self.origin, packed.name, parts))

        def done() -> None:
            for tensor in (packed, *parts.values()):
                tensor.done()

        return CheckpointTensor(packed.name, weight.state.shape, partial(_dequantize, weight), done)


@dataclass(frozen=True, slots=True)
class _State:
    shape: tuple[int, int]
    block_size: int  # numbers that share a scale
    nested_block_size: int  # scales that share one of their own; 0: they are not quantised
    nested_offset: float

    @property
    def num_values(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class _Weight:
    origin: str
    packed: CheckpointTensor
    parts: Mapping[str, CheckpointTensor]
    state: _State

    def read(self, kind: str, length: int, dtype: torch.dtype) -> Tensor:
        if kind not in self.parts:
            raise _damage(self.origin, self.packed.name, f"has no {kind} beside it")
        values = self.parts[kind].read()
        if values.dtype != dtype or values.numel() != length:
            why = f"has {values.numel()} of {values.dtype} as {kind}, and its state says {length} of {dtype}"
            raise _damage(self.origin, self.packed.name, why)
        return values.reshape(-1)


def _dequantize(weight: _Weight) -> Tensor:
    """[N, K] fp32: a number of 4 bits, of two the first in the high ones, is the index of a value, which its block's scale multiplies."""
    state, num_values = weight.state, weight.state.num_values
    # Trainers that cut weights by bytes store them under another type.
    packed = weight.packed.read().reshape(-1).view(torch.uint8)
    if packed.numel() != -(-num_values // 2):
        why = f"has {packed.numel()} bytes, and 4 bits for {list(state.shape)} take {-(-num_values // 2)}"
        raise _damage(weight.origin, weight.packed.name, why)
    codes = weight.read("quant_map", 16, torch.float32)
    pairs = torch.stack((codes.repeat_interleave(16), codes.repeat(16)), dim=1)  # [256, 2]: the values of each byte
    values = pairs.index_select(0, packed.int()).flatten()[:num_values]
    scale = _scales(weight)
    num_whole = num_values // state.block_size
    whole = values[: num_whole * state.block_size].view(num_whole, state.block_size)
    whole.mul_(scale[:num_whole, None])
    values[num_whole * state.block_size :].mul_(scale[-1])
    return values.view(state.shape)


def _scales(weight: _Weight) -> Tensor:
    """[blocks] fp32: the largest magnitude of each; nested: themselves in 8 bits around their mean."""
    state = weight.state
    num_blocks = -(-state.num_values // state.block_size)
    if not state.nested_block_size:
        return weight.read("absmax", num_blocks, torch.float32)
    outer = weight.read("nested_absmax", -(-num_blocks // state.nested_block_size), torch.float32)
    codes = weight.read("nested_quant_map", 256, torch.float32)
    inner = codes.index_select(0, weight.read("absmax", num_blocks, torch.uint8).int())
    return inner * outer.repeat_interleave(state.nested_block_size)[:num_blocks] + state.nested_offset


def _parted(name: str) -> tuple[str, str]:
    """("x.weight", "absmax") of "x.weight.absmax"; the kind is empty for any other tensor."""
    weight, found, _ = name.partition(f".{_STATE}")
    if found:
        return weight, _STATE
    weight, _, kind = name.rpartition(".")
    return (weight, kind) if kind in _KINDS else (name, "")


def _read_state(origin: str, name: str, parts: Mapping[str, CheckpointTensor]) -> _State:
    if _STATE not in parts:
        raise _damage(origin, name, "has scales and no quant_state beside it")
    try:
        values: dict[str, Any] = json.loads(bytes(parts[_STATE].read().reshape(-1).view(torch.uint8).numpy()))
        rows, columns = values["shape"]
        nested = values["nested_blocksize"] if "nested_absmax" in parts else 0
        state = _State((int(rows), int(columns)), int(values["blocksize"]), int(nested), float(values.get("nested_offset", 0)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damage(origin, name, f"has a quant_state that can't be read ({type(error).__name__})") from error
    has_sizes = 0 < state.block_size <= _LARGEST_BLOCK and 0 <= state.nested_block_size <= _LARGEST_BLOCK
    if not has_sizes or min(state.shape) < 1 or ("nested_absmax" in parts) != bool(state.nested_block_size):
        raise _damage(origin, name, "has a quant_state whose sizes are none")
    return state


def _damage(origin: str, name: str, why: str) -> ModelSourceError:
    return ModelSourceError(f"The checkpoint {origin} can't be read as bitsandbytes: {name} {why}; copy or download it again.")
