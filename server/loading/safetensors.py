"""Safetensors: one file, or shards named by an index. Tensors are mapped, so bytes go from the file to the device once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from headway.server.errors import ModelSourceError
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.source.weights import weight_files


class SafetensorsCheckpoint:
    """The files stay open as long as this lives."""

    def __init__(self, directory: Path) -> None:
        self.origin = str(directory)
        self._files = [(path, _open(path)) for path in weight_files(directory)]

    def tensors(self) -> list[CheckpointTensor]:
        found: dict[str, CheckpointTensor] = {}
        for path, file in self._files:
            for name in list(file.keys()):
                if name in found:
                    raise ModelSourceError(
                        f"The tensor {name} is in more than one file of {self.origin}; remove the files that don't belong."
                    )
                shape = tuple(file.get_slice(name).get_shape())
                found[name] = CheckpointTensor(name, shape, partial(_read, path, file, name))
        return list(found.values())


def _read(path: Path, file: Any, name: str) -> Tensor:
    try:
        tensor: Tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise ModelSourceError(f"The tensor {name} of {path} cannot be read ({error}); copy or download the file again.") from error
    return tensor


def _open(path: Path) -> Any:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise ModelSourceError(f"The weight file {path} is missing; copy or download the model again.") from error
    except (OSError, SafetensorError) as error:
        raise ModelSourceError(f"The weight file {path} is damaged or cut off ({error}); copy or download it again.") from error
    return file
