"""Copies of a model that belong to no endpoint: those of batch transform."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from itertools import count

from headway.container.instances import all_instances
from headway.container.local.control.materials import Site, remove
from headway.container.local.control.models import Model
from headway.container.local.control.registry import Registry
from headway.container.local.copies.base import CopyFailed
from headway.container.local.copies.seat import Seat


class ModelCopies:
    def __init__(self, site: Site, models: Registry[Model]) -> None:
        self._site, self._models = site, models
        self._serials = count(1)

    def check_model(self, model_name: str) -> None:
        """Raises PlatformError if there is no such model."""
        self._models.get(model_name)

    @contextlib.asynccontextmanager
    async def running(self, model_name: str, environ: Mapping[str, str], place: str, instance_type: str) -> AsyncIterator[str]:
        """The URL of a copy that is in service, for the block. ``environ`` stands over the model's own; ``place`` names its log.
        It gets as many GPUs as an ``instance_type`` has, as an endpoint's copy does.

        Raises CopyFailed if it does not start, PlatformError if there is no such model.
        """
        model = self._models.get(model_name)
        instance = all_instances().get(instance_type)
        directory = self._site.directory / "data" / "alone" / str(next(self._serials))
        try:
            spec = await self._site.spec(model.container, directory, None, instance.num_gpus if instance else 0)
            spec = dataclasses.replace(model.completed(spec), environ={**spec.environ, **environ})
            seat = Seat(f"{place}/{directory.name}", f"The container of {place}", spec, self._site.workshop)
            try:
                await seat.wait_in_service()
                if seat.copy is None:
                    raise CopyFailed(f"The container of {place} ended as soon as it had started.")
                yield seat.copy.url
            finally:
                await seat.retire(0.0)
        finally:
            await remove(directory)
