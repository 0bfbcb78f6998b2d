"""An endpoint configuration that is being run: its variants and their copies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headway.container.instances import all_instances
from headway.container.local.control.materials import Site, remove
from headway.container.local.control.models import Model
from headway.container.local.control.registry import Record, Registry
from headway.container.local.copies.base import CopySpec
from headway.container.local.copies.fleet import Fleet
from headway.container.local.copies.seat import Seat


class Variant:
    """``fleet`` is empty for good where inference components bring the copies; ``num_instances`` then only bounds them."""

    def __init__(self, settings: dict[str, Any], model: Model | None, site: Site, place: str) -> None:
        self.name: str = settings["VariantName"]
        self.settings = settings
        self.model = model
        self.weight: float = settings.get("InitialVariantWeight", 1.0)
        self.num_instances: int = settings["InitialInstanceCount"]
        self._site, self._place = site, place
        self._spec: CopySpec | None = None
        self.fleet = Fleet(self._new_seat, site.workshop.pace.drain_limit_s)

    @property
    def num_current(self) -> int:
        return len(self.fleet.in_service) if self.model else self.num_instances

    @property
    def strategy(self) -> str:
        routing: dict[str, Any] = self.settings.get("RoutingConfig", {})
        return str(routing.get("RoutingStrategy", "RANDOM"))

    async def resize(self, num_instances: int) -> None:
        """Raises CopyFailed; then it is as large as it was."""
        if self.model is not None:
            if self._spec is None:
                self._spec = await self._prepare(self.model)
            await self.fleet.resize(num_instances)
        self.num_instances = num_instances

    async def close(self, drain_limit_s: float | None = None) -> None:
        await self.fleet.close(drain_limit_s)
        await remove(self._directory)

    @property
    def _directory(self) -> Path:
        return self._site.directory / "data" / self._place / self.name

    async def _prepare(self, model: Model) -> CopySpec:
        instance = all_instances().get(self.settings.get("InstanceType", ""))
        limit_s = self.settings.get("ModelDataDownloadTimeoutInSeconds")
        spec = await self._site.spec(model.container, self._directory, limit_s, instance.num_gpus if instance else 0)
        return model.completed(spec)

    def _new_seat(self, number: int) -> Seat:
        assert self._spec is not None, "prepared by resize"
        return Seat(
            f"{self._place}/{self.name}/{number}",
            f"The primary container for production variant {self.name}",
            self._spec,
            self._site.workshop,
            self.settings.get("ContainerStartupHealthCheckTimeoutInSeconds"),
        )


class Deployment:
    """``place`` is a name of its own for directories and logs. Raises PlatformError if a model is gone."""

    def __init__(self, config: Record, models: Registry[Model], site: Site, place: str) -> None:
        self.config = config
        self.variants = {
            settings["VariantName"]: Variant(settings, models.get(settings["ModelName"]) if "ModelName" in settings else None, site, place)
            for settings in config.request["ProductionVariants"]
        }

    async def bring_up(self) -> None:
        """Returns with every copy in service. Raises CopyFailed with nothing left."""
        try:
            await _all_or_first_failure(variant.resize(variant.num_instances) for variant in self.variants.values())
        except BaseException:
            await self.close(0.0)
            raise

    async def close(self, drain_limit_s: float | None = None) -> None:
        await asyncio.gather(*(variant.close(drain_limit_s) for variant in self.variants.values()))


async def _all_or_first_failure(work: Iterable[Any]) -> None:
    """As gather, but what still runs at the first failure is ended before it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks)
