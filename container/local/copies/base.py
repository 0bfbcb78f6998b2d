"""A running copy of a model's container, whatever runs it: a container of an engine, or a process of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from headway.container.local.copies.log import CopyLog
from headway.server.errors import HeadwayError

# Where a container finds what is laid ready for it. The adapters' place is ours: the platform's own isn't documented.
MODEL_DIRECTORY = "/opt/ml/model"
ADAPTERS_DIRECTORY = "/opt/ml/adapters"
ADDITIONAL_DIRECTORY = "/opt/ml/additional-model-data-sources"


class CopyFailed(HeadwayError):
    """A copy that can't be started: one sentence that says why."""


@dataclass(frozen=True, slots=True)
class CopySpec:
    """What every copy of a variant or component is started from. ``words`` stand behind the image's name; directories are the host's."""

    image: str | None
    environ: Mapping[str, str] = field(repr=False)  # it may hold secrets
    words: tuple[str, ...] = ("serve",)
    model_directory: Path | None = None
    additional_directory: Path | None = None
    adapters_directory: Path | None = None
    num_gpus: int = 0


class Copy(Protocol):
    """Started, and not ended by itself. Only its owner stops it."""

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        ...

    def adapter_source(self, name: str) -> str:
        """How the directory ``name`` of the spec's adapters is called inside."""
        ...

    async def ended(self) -> str:
        """Returns when it has ended, however that went: what follows "the container" in a sentence."""
        ...

    async def stop(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL after ``patience_s``; nothing of it is left when this returns. Again is harmless."""
        ...


class Starter(Protocol):
    """What makes copies."""

    async def start(self, spec: CopySpec, gpus: Sequence[str], log: CopyLog) -> Copy:
        """``gpus``: those it may use; none said, none asked for. Raises CopyFailed. Cancelled or failed, it leaves nothing behind."""
        ...

    async def sweep(self) -> int:
        """Ends what a runtime that died has left, and returns how many that were. Once, before the first start."""
        ...

    async def close(self) -> None:
        """Once no copy is left."""
        ...
