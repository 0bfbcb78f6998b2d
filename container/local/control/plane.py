"""The control plane: which operation is whose, and everything that it owns, begun and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from headway.container.local.control.components import Components
from headway.container.local.control.configs import Configs
from headway.container.local.control.endpoints import Endpoints
from headway.container.local.control.leases import Leases
from headway.container.local.control.materials import Site
from headway.container.local.control.model_copies import ModelCopies
from headway.container.local.control.models import Model, Models
from headway.container.local.control.registry import Registry
from headway.container.local.control.scalables import ScalableCopies
from headway.container.local.control.shapes import check_input
from headway.container.local.control.tagging import Tagging
from headway.container.local.control.unheeded import unheeded
from headway.container.local.control.work import Work
from headway.container.local.copies.base import Starter
from headway.container.local.copies.gpus import Gpus
from headway.container.local.copies.seat import Seat, Workshop
from headway.container.local.errors import PlatformError
from headway.container.local.faults import Faults
from headway.container.local.health import Pace, Pinger
from headway.container.local.targets import AsyncInference, Target, Wish
from headway.container.local.work_directory import WorkDirectory
from headway.server.words import plural

Operation = Callable[[dict[str, Any]], dict[str, Any]]


class ControlPlane:
    """Implements Targets. An asynchronous context manager, used from one event loop: its exit stops every copy.

    ``scalables`` and ``model_copies`` are for autoscaling and batch transform. It owns ``starter``. ``say`` prints a line for people:
    copies' logs, and what happens to them. The logs themselves are files below ``logs``.
    """

    def __init__(
        self,
        starter: Starter,
        region: str,
        s3: Any,
        say: Callable[[str], None],
        *,
        pace: Pace | None = None,
        faults: Faults | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        self._starter, self._say = starter, say
        self._faults, pace = faults or Faults(), pace or Pace()
        self._directory = WorkDirectory()
        self.logs = self._directory.path / "logs"
        self._pinger = Pinger(pace.ping_limit_s, self._faults)
        self._work = Work(say)
        self._workshop = Workshop(starter, self._pinger, pace, self.logs, say, gpus)
        site = Site(region, self._directory.path, self._workshop, s3)
        self._models = Models(region)
        self._configs = Configs(region, self._models.registry)
        self._endpoints = Endpoints(
            site, self._work, self._models.registry, self._configs.registry, lambda name: self._components.of_endpoint(name)
        )
        self._components = Components(site, self._work, self._models.registry, lambda name: self._endpoints.registry.get(name))
        self._leases = Leases(self._endpoints, self._components, self._faults)
        self.scalables = ScalableCopies(self._endpoints, self._components)
        self.model_copies = ModelCopies(site, self._models.registry)
        self._operations = self._table()

    async def __aenter__(self) -> ControlPlane:
        if num_left := await self._starter.sweep():
            self._say(f"removed {plural(num_left, 'container')} that a runtime before this one had left")
        if self._directory.left:
            self._say(f"removed the files of {plural(self._directory.left, 'runtime')} that had been killed")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._work.close()
        await self._workshop.close()
        await self._components.close()
        await self._pinger.aclose()
        await self._starter.close()
        await asyncio.to_thread(self._directory.remove)

    def hurry(self) -> None:
        """On the way out: copies that have got SIGTERM get SIGKILL, and no request is waited for."""
        self._workshop.hurry()

    async def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of a SageMaker operation, moments as datetime. Raises PlatformError."""
        known = self._operations.get(operation)
        if known is None:
            names = ", ".join(sorted(self._operations))
            raise PlatformError(400, "UnknownOperationException", f"{operation[:100]!r} is not emulated. There are: {names}.")
        check_input(operation, body)
        answer = known(body)
        if ignored := unheeded(operation, body):
            self._say(f"{operation}: kept as given, without any effect in this runtime: {', '.join(ignored)}")
        return answer

    def make_endpoint(
        self, name: str, environ: Mapping[str, str], words: tuple[str, ...] = ("serve",), model_directory: Path | None = None
    ) -> None:
        """As the three Create calls would, for what the command line says: words and a directory have no place in the API."""
        container = {"Image": "headway-local", "Environment": dict(environ)}
        registry: Registry[Model] = self._models.registry
        request = {"ModelName": name, "PrimaryContainer": container}
        registry.add(Model(name, registry.arn(name), request, {}, words=words, model_directory=model_directory))
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "local", "InitialInstanceCount": 1}
        self._configs.create({"EndpointConfigName": name, "ProductionVariants": [variant]})
        self._endpoints.create({"EndpointName": name, "EndpointConfigName": name})

    def lease(self, endpoint: str, wish: Wish) -> AbstractContextManager[Target]:
        return self._leases.lease(endpoint, wish)

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        return self._leases.async_inference(endpoint)

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        self._leases.open_session(endpoint, session, target)

    def close_session(self, endpoint: str, session: str) -> None:
        self._leases.close_session(endpoint, session)

    def copies_of(self, endpoint: str, variant: str | None = None, component: str | None = None) -> list[Seat]:
        return self._leases.copies_of(endpoint, variant, component)

    def _table(self) -> dict[str, Operation]:
        tags = Tagging([self._models.registry, self._configs.registry, self._endpoints.registry, self._components.registry])
        return {
            "CreateModel": self._models.create,
            "DescribeModel": self._models.describe,
            "DeleteModel": self._models.delete,
            "ListModels": self._models.list,
            "CreateEndpointConfig": self._configs.create,
            "DescribeEndpointConfig": self._configs.describe,
            "DeleteEndpointConfig": self._configs.delete,
            "ListEndpointConfigs": self._configs.list,
            "CreateEndpoint": self._endpoints.create,
            "DescribeEndpoint": self._endpoints.describe,
            "UpdateEndpoint": self._endpoints.update,
            "UpdateEndpointWeightsAndCapacities": self._endpoints.update_weights,
            "DeleteEndpoint": self._endpoints.delete,
            "ListEndpoints": self._endpoints.list,
            "CreateInferenceComponent": self._components.create,
            "DescribeInferenceComponent": self._components.describe,
            "UpdateInferenceComponent": self._components.update,
            "UpdateInferenceComponentRuntimeConfig": self._components.update_runtime,
            "DeleteInferenceComponent": self._components.delete,
            "ListInferenceComponents": self._components.list,
            "AddTags": tags.add,
            "ListTags": tags.list,
            "DeleteTags": tags.delete,
        }
