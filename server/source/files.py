"""The local files of one model: what every room gets after the model's name has been resolved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ModelFiles:
    """Where one model lies on this machine.

    - kind "safetensors": `directory` holds config.json and *.safetensors; `gguf` is None.
    - kind "gguf": `gguf` is the file; `directory` is the folder it was found in where the user named a folder, else None.
    - `name`: what the user asked for, unchanged (the default served model name).
    """

    kind: Literal["safetensors", "gguf"]
    directory: Path | None
    gguf: Path | None
    name: str

    @property
    def path(self) -> Path:
        """The one path that identifies the model on this machine."""
        path = self.gguf if self.kind == "gguf" else self.directory
        assert path is not None
        return path
