"""What copies are started from: a container definition with its data fetched."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from headway.container.local.copies.base import CopyFailed, CopySpec
from headway.container.local.copies.seat import Workshop
from headway.container.local.model_data import fetch_artifact, fetch_model_data
from headway.server.errors import HeadwayError

_Fetched = TypeVar("_Fetched")


@dataclass(frozen=True, slots=True)
class Site:
    """Where and with what deployments are made. ``directory`` is the runtime's own; ``s3`` is a boto3 client."""

    region: str
    directory: Path
    workshop: Workshop
    s3: Any

    async def spec(self, container: dict[str, Any], directory: Path, limit_s: float | None, num_gpus: int) -> CopySpec:
        """With the model's data below ``directory``. Raises CopyFailed."""
        data = await _fetched(lambda: fetch_model_data(container, directory, self.s3), limit_s)
        return CopySpec(
            container.get("Image"),
            container.get("Environment", {}),
            model_directory=data.model,
            additional_directory=data.additional,
            num_gpus=num_gpus,
        )

    async def artifact(self, url: str, target: Path, limit_s: float | None) -> None:
        """An adapter's archive laid into ``target``, which is made. Raises CopyFailed."""
        await _fetched(lambda: fetch_artifact(url, target, self.s3), limit_s)


async def remove(directory: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _fetched(fetch: Callable[[], _Fetched], limit_s: float | None) -> _Fetched:
    try:
        return await asyncio.wait_for(asyncio.to_thread(fetch), limit_s)
    except TimeoutError as problem:
        raise CopyFailed(f"The model data could not be downloaded within {limit_s:g} s.") from problem
    except HeadwayError as problem:
        raise CopyFailed(f"The model data could not be downloaded. {problem}") from problem
