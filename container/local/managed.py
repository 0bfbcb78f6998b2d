"""`--image` and `--process`: the control plane, and all that works on the copies that it starts."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from headway.container.local.app import Service, Submit
from headway.container.local.async_inference import AsyncInferences
from headway.container.local.autoscaling.load import CountedTargets
from headway.container.local.autoscaling.loop import AutoscalingLoop
from headway.container.local.autoscaling.metrics import Metrics
from headway.container.local.autoscaling.service import Autoscaling
from headway.container.local.control.plane import ControlPlane
from headway.container.local.control.protocol import service
from headway.container.local.control.shapes import check_input
from headway.container.local.copies.base import Starter
from headway.container.local.copies.gpus import Gpus
from headway.container.local.errors import PlatformError
from headway.container.local.faults import Faults
from headway.container.local.runtime.container import Container
from headway.container.local.storage import Storage
from headway.container.local.targets import Targets
from headway.container.local.transform.jobs import TransformJobs
from headway.container.settings import Settings


@dataclass(frozen=True, slots=True)
class Managed:
    """What the application joins."""

    targets: Targets
    services: Mapping[str, Service]
    submit: Submit
    hurry: Callable[[], None]  # copies that are being stopped are killed now


@asynccontextmanager
async def managed(
    options: argparse.Namespace,
    settings: Settings | None,
    faults: Faults,
    region: str,
    storage: Storage,
    container: Container,
    machine: Mapping[str, str],
) -> AsyncIterator[Managed]:
    """``settings``: of the endpoint that is made at once, None: callers create all. The exit stops every copy."""
    async with AsyncExitStack() as stack:
        gpus = Gpus(options.gpus) if options.gpus else None
        plane = ControlPlane(_starter(options, machine), region, storage.s3, _print, faults=faults, gpus=gpus)
        await stack.enter_async_context(plane)
        load = CountedTargets(plane)
        inferences = await stack.enter_async_context(AsyncInferences(load, storage, container))
        jobs = await stack.enter_async_context(TransformJobs(region, plane.model_copies, storage.s3, container))
        scaling = Autoscaling(region, plane.scalables)
        metrics = Metrics(load, inferences.num_waiting, container)
        await stack.enter_async_context(AutoscalingLoop(scaling, plane.scalables, metrics, _print, options.autoscaling_interval))
        if settings is not None:
            words = settings.words or ("serve",)
            plane.make_endpoint(options.endpoint_name, settings.environ, words, settings.model_directory)
        yield Managed(load, _services(plane, jobs, scaling), inferences.submit, plane.hurry)


def _starter(options: argparse.Namespace, machine: Mapping[str, str]) -> Starter:
    """Raises HeadwayError: there is no engine."""
    if options.process:
        from headway.container.local.copies.process import ProcessStarter

        return ProcessStarter(machine)
    from headway.container.local.copies.container import ContainerStarter

    return ContainerStarter(machine, options.image)


def _services(plane: ControlPlane, jobs: TransformJobs, scaling: Autoscaling) -> dict[str, Service]:
    async def sagemaker(operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation not in jobs.operations:
            return await plane.handle(operation, body)
        check_input(operation, body)
        return await jobs.handle(operation, body)

    async def autoscaling(operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation not in scaling.operations:
            raise PlatformError(400, "UnknownOperationException", f"{operation[:100]!r} is not emulated.")
        check_input(operation, body, "application-autoscaling")
        return await scaling.handle(operation, body)

    return {"SageMaker": service(sagemaker), "AnyScaleFrontendService": service(autoscaling)}


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # as of a pipe whose reader has gone: copies go on
        sys.stderr.write(f"{line}\n")
