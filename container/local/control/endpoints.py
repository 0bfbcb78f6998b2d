"""Endpoints: made, updated and deleted step by step behind their calls, each going through the platform's statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from headway.container.local.control.deployment import Deployment, Variant
from headway.container.local.control.endpoint_shown import described
from headway.container.local.control.listing import page
from headway.container.local.control.materials import Site
from headway.container.local.control.models import Model
from headway.container.local.control.names import ENDPOINT
from headway.container.local.control.registry import Record, Registry, refused, tags_of
from headway.container.local.control.routing import Sessions
from headway.container.local.control.work import Work
from headway.container.local.copies.base import CopyFailed

_RETAINED = {"DesiredInstanceCount": "num_instances", "DesiredWeight": "weight"}


@dataclass(slots=True, eq=False)
class Endpoint(Record):
    """``deployment`` takes its requests; a new one takes its place when it is ready."""

    deployment: Deployment
    status: str = "Creating"
    failure_reason: str | None = None
    sessions: Sessions = field(default_factory=Sessions)

    def set(self, status: str, failure_reason: str | None = None) -> None:
        self.status, self.failure_reason = status, failure_reason
        self.touch()

    @property
    def takes_requests(self) -> bool:
        return self.status in ("InService", "Updating", "RollingBack")


class Endpoints:
    """``components_of`` names the inference components of an endpoint."""

    def __init__(
        self, site: Site, work: Work, models: Registry[Model], configs: Registry[Record], components_of: Callable[[str], list[str]]
    ) -> None:
        self.registry: Registry[Endpoint] = Registry(site.region, ENDPOINT)
        self._site, self._work, self._models, self._configs = site, work, models, configs
        self._components_of = components_of
        self._serials = count(1)

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["EndpointName"]
        self.registry.check_free(name)
        deployment = self._deployment(name, self._configs.get(request["EndpointConfigName"]))
        endpoint = Endpoint(name, self.registry.arn(name), request, tags_of(request), deployment)
        self.registry.add(endpoint)
        self._begin(endpoint, self._bring_up(endpoint))
        return {"EndpointArn": endpoint.arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self.registry.get(request["EndpointName"])
        shown = described(endpoint.deployment)
        times = {"CreationTime": endpoint.created, "LastModifiedTime": endpoint.modified}
        reason = {"FailureReason": endpoint.failure_reason} if endpoint.failure_reason else {}
        return {"EndpointName": endpoint.name, "EndpointArn": endpoint.arn, "EndpointStatus": endpoint.status, **shown, **reason, **times}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        return page(request, self.registry, "Endpoints", _summary, lambda endpoint: endpoint.status)

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._settled(request["EndpointName"])
        new = self._deployment(endpoint.name, self._configs.get(request["EndpointConfigName"]))
        if request.get("RetainAllVariantProperties"):
            excluded = {_RETAINED.get(item["VariantPropertyType"]) for item in request.get("ExcludeRetainedVariantProperties", ())}
            _retain(endpoint.deployment, new, [attribute for attribute in _RETAINED.values() if attribute not in excluded])
        if components := self._components_of(endpoint.name):
            lost = [name for name, variant in endpoint.deployment.variants.items() if not variant.model and name not in new.variants]
            if lost or any(variant.model for variant in new.variants.values()):
                raise refused(f"Variants with inference components ({', '.join(components)}) can't be taken away: delete those first.")
        endpoint.set("Updating")
        self._begin(endpoint, self._replace(endpoint, new))
        return {"EndpointArn": endpoint.arn}

    def update_weights(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._settled(request["EndpointName"])
        wanted = request["DesiredWeightsAndCapacities"]
        for change in wanted:
            _variant(endpoint, change["VariantName"])
        for change in wanted:
            if "DesiredWeight" in change:
                _variant(endpoint, change["VariantName"]).weight = change["DesiredWeight"]
        sizes = {change["VariantName"]: change["DesiredInstanceCount"] for change in wanted if "DesiredInstanceCount" in change}
        endpoint.set("Updating")
        self._begin(endpoint, self._resize(endpoint, sizes))
        return {"EndpointArn": endpoint.arn}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint = self.registry.get(request["EndpointName"])
        if endpoint.status not in ("InService", "Failed"):
            raise _in_progress(endpoint)
        if components := self._components_of(endpoint.name):
            raise refused(f'Endpoint "{endpoint.arn}" has inference components: delete {", ".join(components)} first.')
        endpoint.set("Deleting")
        self._begin(endpoint, self._take_down(endpoint))
        return {}

    def scale(self, name: str, variant: str, num_instances: int) -> asyncio.Task[None]:
        """Ends when it is so large, or not. Raises PlatformError; a change before it must have ended."""
        endpoint = self._settled(name)
        _variant(endpoint, variant)
        endpoint.set("Updating")
        return self._begin(endpoint, self._resize(endpoint, {variant: num_instances}))

    def variant(self, name: str, variant: str) -> Variant:
        """Raises PlatformError."""
        return _variant(self.registry.get(name), variant)

    def _deployment(self, name: str, config: Record) -> Deployment:
        return Deployment(config, self._models, self._site, f"{name}/{next(self._serials)}")

    def _settled(self, name: str) -> Endpoint:
        endpoint = self.registry.get(name)
        if endpoint.status == "Failed":
            raise refused(f'Endpoint "{endpoint.arn}" is Failed: it can only be deleted. {endpoint.failure_reason}')
        if endpoint.status != "InService":
            raise _in_progress(endpoint)
        return endpoint

    def _begin(self, endpoint: Endpoint, steps: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._work.begin(steps, lambda reason: endpoint.set("Failed", reason))

    async def _bring_up(self, endpoint: Endpoint) -> None:
        await endpoint.deployment.bring_up()
        endpoint.set("InService")

    async def _replace(self, endpoint: Endpoint, new: Deployment) -> None:
        try:
            await new.bring_up()
        except CopyFailed as problem:
            endpoint.set("InService", str(problem))  # it was rolled back to what served all the time
            return
        old, endpoint.deployment = endpoint.deployment, new
        await old.close()
        endpoint.set("InService")

    async def _resize(self, endpoint: Endpoint, sizes: dict[str, int]) -> None:
        try:
            for name, num_instances in sizes.items():
                await endpoint.deployment.variants[name].resize(num_instances)
        except CopyFailed as problem:
            endpoint.set("InService", str(problem))
            return
        endpoint.set("InService")

    async def _take_down(self, endpoint: Endpoint) -> None:
        await endpoint.deployment.close()
        self.registry.remove(endpoint)


def _summary(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointStatus": endpoint.status,
        "CreationTime": endpoint.created,
        "LastModifiedTime": endpoint.modified,
    }


def _in_progress(endpoint: Endpoint) -> Exception:
    return refused(f'Cannot update in-progress endpoint "{endpoint.arn}".')


def _variant(endpoint: Endpoint, name: str) -> Variant:
    if name not in endpoint.deployment.variants:
        raise refused(f'Could not find variant "{name}" of endpoint "{endpoint.arn}".')
    return endpoint.deployment.variants[name]


def _retain(old: Deployment, new: Deployment, attributes: list[str]) -> None:
    for name in old.variants.keys() & new.variants.keys():
        for attribute in attributes:
            setattr(new.variants[name], attribute, getattr(old.variants[name], attribute))
