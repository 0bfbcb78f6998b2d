"""What a checkpoint is to the loader: named tensors, each read when its turn comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headway.server.layers.quant.grouped import GgufBlocks
from headway.server.layers.quant.quantized_values import QuantizedValues

Blocks = GgufBlocks | QuantizedValues


def _no_elements(index: int) -> CheckpointTensor:
    raise TypeError(f"element {index} of a tensor that is only read whole")


@dataclass(frozen=True, slots=True)
class CheckpointTensor:
    """``read`` maps or makes the whole tensor, in any float dtype; it may be called from any thread, and so may ``read_blocks``: the
    same as the file has it, where that is wanted. ``done`` says that what was read is needed no more. ``at`` gives an element of the
    first dimension as a tensor of its own, which is read alone, and ``span`` (first, count) so many of them; None where nothing is saved
    by reading less than the whole."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    done: Callable[[], None] = lambda: None
    read_blocks: Callable[[], Blocks] | None = None
    at: Callable[[int], CheckpointTensor] = _no_elements
    span: Callable[[int, int], CheckpointTensor] | None = None


def read_tensor(open_again: Callable[[], Checkpoint], name: str) -> Tensor | None:
    """The tensor of that name, None where there is none. Files are open only as long as the tensor lives."""
    return next((tensor.read() for tensor in open_again().tensors() if tensor.name == name), None)


class Checkpoint(Protocol):
    """The tensors in the order in which they are best read."""

    origin: str  # for messages

    def tensors(self) -> list[CheckpointTensor]: ...
