"""What copies are started from: a container definition with its data fetched."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.container.local.copies.base import CopyFailed, CopySpec
from headway.container.local.copies.seat import Workshop
from headway.server.errors import HeadwayError

# Lays what a ContainerDefinition names (ModelDataUrl or ModelDataSource) into an empty directory. Raises HeadwayError.
Fetch = Callable[[dict[str, Any], Path], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Site:
    """Where and with what deployments are made. ``directory`` is the runtime's own and is deleted with it."""

    region: str
    directory: Path
    workshop: Workshop
    fetch: Fetch

    async def fetched(self, source: dict[str, Any], directory: Path, limit_s: float | None) -> Path:
        """``source`` laid into ``directory``, which is new. Raises CopyFailed, and leaves nothing then."""
        directory.mkdir(parents=True, mode=0o755)
        try:
            async with asyncio.timeout(limit_s):
                await self.fetch(source, directory)
        except BaseException as problem:
            await remove(directory)
            if isinstance(problem, TimeoutError):
                raise CopyFailed(f"The model data could not be downloaded within {limit_s:g} s.") from problem
            if isinstance(problem, HeadwayError):
                raise CopyFailed(f"The model data could not be downloaded: {problem}") from problem
            raise
        return directory

    async def spec(self, container: dict[str, Any], directory: Path, limit_s: float | None, num_gpus: int) -> CopySpec:
        """With the model's data in ``directory`` where there is any. Raises CopyFailed."""
        has_data = "ModelDataUrl" in container or "ModelDataSource" in container
        model = await self.fetched(container, directory, limit_s) if has_data else None
        return CopySpec(container.get("Image"), container.get("Environment", {}), model_directory=model, num_gpus=num_gpus)


async def remove(directory: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
