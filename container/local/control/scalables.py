"""What autoscaling sees of endpoints and components: how many copies there are, and how to have more or fewer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headway.container.local.autoscaling.resources import Resource
from headway.container.local.control.components import Components
from headway.container.local.control.endpoints import Endpoints
from headway.container.local.copies.base import CopyFailed


class ScalableCopies:
    """Everything here raises PlatformError for what is not there, or not any more."""

    def __init__(self, endpoints: Endpoints, components: Components) -> None:
        self._endpoints, self._components = endpoints, components

    def num_desired(self, resource: Resource) -> int:
        if resource.component is not None:
            return self._components.registry.get(resource.component).num_copies
        return self._endpoints.variant(str(resource.endpoint), str(resource.variant)).num_instances

    def urls(self, resource: Resource) -> Sequence[str]:
        """Of the copies in service."""
        if resource.component is not None:
            seats = self._components.registry.get(resource.component).seats
        else:
            seats = self._endpoints.variant(str(resource.endpoint), str(resource.variant)).fleet.in_service
        return [seat.copy.url for seat in seats if seat.copy]

    async def scale(self, resource: Resource, num_copies: int) -> None:
        """Returns once there are so many. Raises CopyFailed, and PlatformError while an earlier change goes on."""
        if resource.component is not None:
            work = self._components.scale(resource.component, num_copies)
        else:
            work = self._endpoints.scale(str(resource.endpoint), str(resource.variant), num_copies)
        await asyncio.wait([work])
        record = (
            self._components.registry.find(resource.component)
            if resource.component
            else self._endpoints.registry.find(str(resource.endpoint))
        )
        if record is not None and record.failure_reason:
            raise CopyFailed(record.failure_reason)
