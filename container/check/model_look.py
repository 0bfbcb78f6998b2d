"""What was seen of a model without loading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError, HeadwayError, ModelSourceError
from headway.server.sizing.model import ModelShape, read_shape
from headway.server.source.files import ModelFiles

Place = Literal["", "this machine", "Hub cache", "Hub", "S3"]


@dataclass(slots=True)
class ModelLook:
    """Filled by model_files.look_at_model. ``sizes``: bytes of the files that the server would read, by their names; none of an archive.

    ``files`` is None where the model is not on this machine, ``shape`` where it could not be read.
    """

    name: str
    place: Place = ""
    files: ModelFiles | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    shape: ModelShape | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @property
    def weight_file_bytes(self) -> int:
        return sum(size for name, size in self.sizes.items() if name.endswith((".safetensors", ".gguf")))

    def keep_problems(self, do: Callable[[], object]) -> None:
        """What ``do`` raises on purpose becomes problems of the model."""
        try:
            do()
        except ConfigError as error:
            self._add(error.problems)
        except HeadwayError as error:
            self._add([str(error)])

    def read_shape(self, config: ServerConfig, files: ModelFiles) -> None:
        """Raises ModelSourceError or ConfigError."""
        try:
            self.shape = read_shape(config, files)
        # Somebody else's file: a text may stand where a list should be, and a number be zero.
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            raise ModelSourceError(f"{files.path} can't be understood ({type(error).__name__}: {error}); download it again.") from error

    def _add(self, problems: list[str]) -> None:
        """Two looks may meet the same fault."""
        self.problems += [problem for problem in problems if problem not in self.problems]
