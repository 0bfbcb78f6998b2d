"""Inference components: copies of their own on an endpoint's instances, and adapters that copies of another one hold."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from headway.container.instances import all_instances
from headway.container.local.control.adapters import AdapterCalls
from headway.container.local.control.component_shown import described_specification
from headway.container.local.control.deployment import Variant
from headway.container.local.control.endpoints import Endpoint
from headway.container.local.control.listing import page
from headway.container.local.control.materials import Site, remove
from headway.container.local.control.models import Model, check_container
from headway.container.local.control.names import COMPONENT
from headway.container.local.control.placement import have_room, need_of
from headway.container.local.control.registry import Record, Registry, refused, tags_of
from headway.container.local.control.work import Work
from headway.container.local.copies.base import Copy, CopyFailed, CopySpec
from headway.container.local.copies.fleet import Fleet
from headway.container.local.copies.seat import Seat

_NO_ROOM = (
    "There is not enough hardware resources on the instances for this endpoint to create a copy of the inference component. Change "
    "ComputeResourceRequirements or CopyCount, or give the variant more or larger instances."
)


@dataclass(slots=True, eq=False)
class Component(Record):
    """``base`` is set for an adapter, ``fleet`` for any other. ``directory`` holds its data, and its adapters below ``adapters``."""

    endpoint: Endpoint
    variant: str
    specification: dict[str, Any]
    num_copies: int
    directory: Path
    base: Component | None = None
    fleet: Fleet | None = None
    spec: CopySpec | None = None
    status: str = "Creating"
    failure_reason: str | None = None
    folder: str | None = None  # an adapter's, below its base's adapters, once it is there

    def set(self, status: str, failure_reason: str | None = None) -> None:
        self.status, self.failure_reason = status, failure_reason
        self.touch()

    @property
    def seats(self) -> list[Seat]:
        """Those in service that can take its requests."""
        fleet = self.base.fleet if self.base else self.fleet
        return fleet.in_service if fleet else []


class Components:
    def __init__(self, site: Site, work: Work, models: Registry[Model], endpoint: Callable[[str], Endpoint]) -> None:
        """``endpoint`` finds one by name, and raises PlatformError."""
        self.registry: Registry[Component] = Registry(site.region, COMPONENT)
        self._site, self._work, self._models, self._endpoint = site, work, models, endpoint
        self._adapters = AdapterCalls()
        self._serials = count(1)

    def of_endpoint(self, endpoint: str) -> list[str]:
        return [component.name for component in self.registry if component.endpoint.name == endpoint]

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["InferenceComponentName"]
        self.registry.check_free(name)
        endpoint = self._endpoint(request["EndpointName"])
        if endpoint.status != "InService":
            raise refused(f'Endpoint "{endpoint.arn}" is {endpoint.status}: inference components are made on one that is InService.')
        specification = _specification(request)
        base = self._base(specification, endpoint)
        variant = base.variant if base else _variant_for(request, endpoint)
        if base is None:
            self._check_image(specification)
        component = Component(
            name,
            self.registry.arn(name),
            request,
            tags_of(request),
            endpoint,
            variant,
            specification,
            0 if base else _copy_count(request),
            self._site.directory / "components" / f"{name}-{next(self._serials)}",
            base,
        )
        self.registry.add(component)
        self._begin(component, self._register(component) if base else self._bring_up(component, component.num_copies))
        return {"InferenceComponentArn": component.arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        component = self.registry.get(request["InferenceComponentName"])
        wanted = component.base.num_copies if component.base else component.num_copies
        reason = {"FailureReason": component.failure_reason} if component.failure_reason else {}
        return {
            **_summary(component),
            **reason,
            "Specification": described_specification(component.specification, component.spec),
            "RuntimeConfig": {"DesiredCopyCount": wanted, "CurrentCopyCount": len(component.seats)},
        }

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint, variant = request.get("EndpointNameEquals"), request.get("VariantNameEquals")
        found = [c for c in self.registry if endpoint in (None, c.endpoint.name) and variant in (None, c.variant)]
        return page(request, found, "InferenceComponents", _summary, lambda component: component.status)

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        component = self._settled(request["InferenceComponentName"])
        num_copies = request["RuntimeConfig"]["CopyCount"] if "RuntimeConfig" in request else component.num_copies
        if component.base is not None:
            raise refused("An adapter's inference component can't be updated by this runtime: delete it, and make it again.")
        if "Specification" not in request and "Specifications" not in request:
            self._resize(component, num_copies)
            return {"InferenceComponentArn": component.arn}
        specification = _specification(request)
        if "BaseInferenceComponentName" in specification:
            raise refused("An inference component with copies of its own can't become an adapter's.")
        self._check_image(specification)
        component.set("Updating")
        self._begin(component, self._replace(component, specification, num_copies))
        return {"InferenceComponentArn": component.arn}

    def update_runtime(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["InferenceComponentName"]
        self.scale(name, request["DesiredRuntimeConfig"]["CopyCount"])
        return {"InferenceComponentArn": self.registry.arn(name)}

    def scale(self, name: str, num_copies: int) -> asyncio.Task[None]:
        """Ends when it has so many copies, or not. Raises PlatformError; a change before it must have ended."""
        component = self._settled(name)
        if component.base is not None:
            raise refused(f"{component.name} is an adapter's: it has as many copies as {component.base.name}.")
        return self._resize(component, num_copies)

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        component = self.registry.get(request["InferenceComponentName"])
        if component.status not in ("InService", "Failed"):
            raise refused(f'Cannot delete inference component "{component.arn}" while it is {component.status}.')
        if adapters := [other.name for other in self.registry if other.base is component]:
            raise refused(f'Inference component "{component.arn}" has adapters: delete {", ".join(adapters)} first.')
        component.set("Deleting")
        self._begin(component, self._take_down(component))
        return {}

    async def close(self) -> None:
        """At the end of the runtime."""
        await self._adapters.close()

    def _settled(self, name: str) -> Component:
        component = self.registry.get(name)
        if component.status != "InService":
            raise refused(f'Cannot update inference component "{component.arn}" while it is {component.status}.')
        return component

    def _begin(self, component: Component, steps: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._work.begin(steps, lambda reason: component.set("Failed", reason))

    def _base(self, specification: dict[str, Any], endpoint: Endpoint) -> Component | None:
        name = specification.get("BaseInferenceComponentName")
        if name is None:
            return None
        base = self.registry.get(name)
        if base.endpoint is not endpoint or base.base is not None or base.status != "InService":
            raise refused(f'"{base.arn}" can\'t hold adapters: it must be InService, on the same endpoint, and no adapter itself.')
        if "ArtifactUrl" not in specification.get("Container", {}):
            raise refused("Container.ArtifactUrl must name the adapter's .tar.gz where BaseInferenceComponentName is given.")
        return base

    def _check_image(self, specification: dict[str, Any]) -> None:
        if ("ModelName" in specification) is ("Image" in specification.get("Container", {})):
            raise refused("Exactly one of ModelName and Container.Image must be given for an inference component.")
        if "ComputeResourceRequirements" not in specification:
            raise refused("ComputeResourceRequirements must be given for an inference component that is no adapter's.")
        if "ModelName" in specification:
            self._models.get(specification["ModelName"])

    def _resize(self, component: Component, num_copies: int) -> asyncio.Task[None]:
        component.set("Updating")
        return self._begin(component, self._grow(component, num_copies))

    async def _bring_up(self, component: Component, num_copies: int) -> None:
        self._check_room(component, component.specification, num_copies)
        component.spec = await self._prepare(component, component.specification)
        component.fleet = self._fleet(component, component.specification, component.spec)
        await component.fleet.resize(num_copies)
        component.set("InService")

    async def _grow(self, component: Component, num_copies: int) -> None:
        assert component.fleet is not None, "in service, and no adapter"
        try:
            self._check_room(component, component.specification, num_copies)
            await component.fleet.resize(num_copies)
            component.num_copies = num_copies
            component.set("InService")
        except CopyFailed as problem:
            component.set("InService", str(problem))

    async def _replace(self, component: Component, specification: dict[str, Any], num_copies: int) -> None:
        """New copies beside the old ones, which go on where those fail."""
        try:
            self._check_room(component, specification, num_copies)
            spec = await self._prepare(component, specification)
            fleet = self._fleet(component, specification, spec)
            await fleet.resize(num_copies)
        except CopyFailed as problem:
            component.set("InService", str(problem))
            return
        old, component.fleet = component.fleet, fleet
        component.spec, component.specification, component.num_copies = spec, specification, num_copies
        if old:
            await old.close()
        component.set("InService")

    async def _take_down(self, component: Component) -> None:
        if component.base is not None and component.folder is not None:
            unloads = [self._adapters.unload(seat.copy, component.name) for seat in component.seats if seat.copy]
            for answer in await asyncio.gather(*unloads, return_exceptions=True):
                if isinstance(answer, CopyFailed):
                    self._site.workshop.say(f"{component.name}: {answer}")
            await remove(component.base.directory / "adapters" / component.folder)
        if component.fleet is not None:
            await component.fleet.close()
        await remove(component.directory)
        self.registry.remove(component)

    async def _register(self, component: Component) -> None:
        base, folder = component.base, component.directory.name
        assert base is not None, "an adapter"
        target = base.directory / "adapters" / folder
        await self._site.artifact(component.specification["Container"]["ArtifactUrl"], target, _limit_s(component.specification))
        component.folder = folder  # from now on copies that get ready are given it too
        try:
            await asyncio.gather(*(self._adapters.load(seat.copy, component.name, folder) for seat in base.seats if seat.copy))
        except CopyFailed:
            component.folder = None
            await remove(target)
            raise
        component.set("InService")

    async def _welcome(self, base: Component, copy: Copy) -> None:
        """A copy that is ready gets the adapters that those before it had, those too that come meanwhile."""
        given: set[Component] = set()
        while waiting := [one for one in self.registry if one.base is base and one.folder and one not in given]:
            for adapter in waiting:
                given.add(adapter)
                try:
                    await self._adapters.load(copy, adapter.name, str(adapter.folder))
                except CopyFailed as problem:
                    adapter.set("Failed", str(problem))

    async def _prepare(self, component: Component, specification: dict[str, Any]) -> CopySpec:
        """Adapters stay in one place: copies of the specification before it and of this one are given them from there."""
        adapters = component.directory / "adapters"
        adapters.mkdir(parents=True, exist_ok=True)
        num_gpus = int(need_of(specification["ComputeResourceRequirements"]).num_gpus)
        model = self._models.get(specification["ModelName"]) if "ModelName" in specification else None
        if model is not None:
            own = specification.get("Container", {}).get("Environment", {})
            container = {**model.container, "Environment": {**model.container.get("Environment", {}), **own}}
        else:
            given = specification["Container"]
            container = {**given, **({"ModelDataUrl": given["ArtifactUrl"]} if "ArtifactUrl" in given else {})}
        check_container(container)
        spec = await self._site.spec(container, component.directory / f"data-{next(self._serials)}", _limit_s(specification), num_gpus)
        return dataclasses.replace(model.completed(spec) if model else spec, adapters_directory=adapters)

    def _fleet(self, component: Component, specification: dict[str, Any], spec: CopySpec) -> Fleet:
        place = f"{component.endpoint.name}/{component.name}-{next(self._serials)}"
        window_s = specification.get("StartupParameters", {}).get("ContainerStartupHealthCheckTimeoutInSeconds")

        def new_seat(number: int) -> Seat:
            return Seat(
                f"{place}/{number}",
                f"The container of inference component {component.name}",
                spec,
                self._site.workshop,
                window_s,
                lambda copy: self._welcome(component, copy),
            )

        return Fleet(new_seat, self._site.workshop.pace.drain_limit_s)

    def _check_room(self, component: Component, specification: dict[str, Any], num_copies: int) -> None:
        """Raises CopyFailed. A variant whose instance type isn't in our table has room for anything."""
        variant = component.endpoint.deployment.variants[component.variant]
        instance = all_instances().get(variant.settings["InstanceType"])
        if instance is None:
            return
        needs = [need_of(specification["ComputeResourceRequirements"])] * num_copies
        for other in self.registry:
            if other.endpoint is component.endpoint and other.variant == component.variant and other.fleet and other is not component:
                needs += [need_of(other.specification["ComputeResourceRequirements"])] * other.num_copies
        if not have_room(needs, instance, _num_instances(variant)):
            raise CopyFailed(_NO_ROOM)


def _specification(request: dict[str, Any]) -> dict[str, Any]:
    if len(request.get("Specifications", ())) > 1:
        raise refused("Specifications for several instance types are not emulated by this runtime: give one Specification.")
    given: dict[str, Any] | None = request.get("Specification") or next(iter(request.get("Specifications", ())), None)
    if given is None:
        raise refused("Specification must be given.")
    return given


def _variant_for(request: dict[str, Any], endpoint: Endpoint) -> str:
    variants = endpoint.deployment.variants
    name = request.get("VariantName") or next(iter(variants))
    if name not in variants:
        raise refused(f'Could not find variant "{name}" of endpoint "{endpoint.arn}".')
    if variants[name].model is not None:
        raise refused(
            f"Variant {name} serves a model of its own: inference components need a variant whose configuration has no ModelName."
        )
    return str(name)


def _copy_count(request: dict[str, Any]) -> int:
    if "RuntimeConfig" not in request:
        raise refused("RuntimeConfig.CopyCount must be given for an inference component that is no adapter's.")
    return int(request["RuntimeConfig"]["CopyCount"])


def _limit_s(specification: dict[str, Any]) -> float | None:
    limit_s: float | None = specification.get("StartupParameters", {}).get("ModelDataDownloadTimeoutInSeconds")
    return limit_s


def _num_instances(variant: Variant) -> int:
    """Those that the platform may have: with managed scaling it adds some where copies need them."""
    scaling = variant.settings.get("ManagedInstanceScaling", {})
    most = scaling.get("MaxInstanceCount", 0) if scaling.get("Status") == "ENABLED" else 0
    return max(variant.num_instances, int(most))


def _summary(component: Component) -> dict[str, Any]:
    return {
        "InferenceComponentName": component.name,
        "InferenceComponentArn": component.arn,
        "EndpointName": component.endpoint.name,
        "EndpointArn": component.endpoint.arn,
        "VariantName": component.variant,
        "InferenceComponentStatus": component.status,
        "CreationTime": component.created,
        "LastModifiedTime": component.modified,
    }
