"""CreateTransformJob and its kind: jobs by name, each a task that starts copies of a model, has them answer the input, and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from headway.container.local.control.listing import page
from headway.container.local.control.names import Kind
from headway.container.local.control.registry import Record, Registry, refused, tags_of
from headway.container.local.errors import PlatformError
from headway.container.local.runtime.container import Container
from headway.container.local.transform.options import TransformOptions, read_options
from headway.container.local.transform.run import transform
from headway.server.errors import HeadwayError
from headway.server.say import announce
from headway.server.words import cut

TRANSFORM_JOB = Kind("transform-job", "transform job")
_RETRY_PAUSE_S = 1.0
_MAX_REASON = 1024  # FailureReason in botocore's model
_SHOWN = (
    "ModelName",
    "MaxConcurrentTransforms",
    "ModelClientConfig",
    "MaxPayloadInMB",
    "BatchStrategy",
    "Environment",
    "TransformInput",
    "TransformOutput",
    "TransformResources",
)


class ModelCopies(Protocol):
    """What the control plane offers: copies of a model that belong to no endpoint."""

    def check_model(self, model_name: str) -> None:
        """Raises PlatformError if there is no such model."""
        ...

    def running(
        self, model_name: str, environ: Mapping[str, str], place: str, instance_type: str
    ) -> contextlib.AbstractAsyncContextManager[str]:
        """One copy that answers its pings, for the block; its URL. ``environ`` stands over the model's own, ``place`` is for logs.
        It gets as many GPUs as an ``instance_type`` has.

        Raises HeadwayError with what it ended of, its last log line included.
        """
        ...


@dataclass(slots=True, eq=False)
class TransformJob(Record):
    """``task`` is the only one that changes it, but for Stopping."""

    status: str = "InProgress"
    reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def to(self, status: str, reason: str | None = None) -> None:
        self.status, self.reason = status, cut(reason, _MAX_REASON) if reason else None
        self.touch()


class TransformJobs:
    """To be used inside of `async with`. ``handle`` takes calls whose input has been validated."""

    def __init__(self, region: str, copies: ModelCopies, s3: Any, container: Container, retry_pause_s: float = _RETRY_PAUSE_S) -> None:
        self._copies = copies
        self._s3 = s3
        self._retry_pause_s = retry_pause_s
        self._container = container
        self._jobs: Registry[TransformJob] = Registry(region, TRANSFORM_JOB)
        self.operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "CreateTransformJob": self._create,
            "DescribeTransformJob": self._describe,
            "StopTransformJob": self._stop,
            "ListTransformJobs": self._list,
        }

    async def __aenter__(self) -> TransformJobs:
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [job.task for job in self._jobs if job.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """An operation of ``operations``. Raises PlatformError."""
        return await self.operations[operation](body)

    async def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["TransformJobName"]
        options = read_options(request)
        if found := self._jobs.find(name):
            # Jobs have words of their own: this code is in the API's model, for the others see _get.
            raise PlatformError(
                400,
                "ResourceInUse",
                f"Job name must be unique within an AWS account and region, and a job with this name already exists ({found.arn})",
            )
        self._jobs.check_free(name)
        self._copies.check_model(request["ModelName"])
        job = TransformJob(name, self._jobs.arn(name), request, tags_of(request))
        self._jobs.add(job)
        job.task = asyncio.create_task(self._run(job, options))
        return {"TransformJobArn": job.arn}

    def _get(self, name: str) -> TransformJob:
        """Raises PlatformError: as the platform answers of jobs, though the API's model has ResourceNotFound."""
        job = self._jobs.find(name)
        if job is None:
            raise refused(f"Could not find requested job with name: {name}")
        return job

    async def _describe(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._get(request["TransformJobName"])
        shown = {name: job.request[name] for name in _SHOWN if name in job.request}
        times = {"CreationTime": job.created, "TransformStartTime": job.started, "TransformEndTime": job.ended}
        facts = {"TransformJobName": job.name, "TransformJobArn": job.arn, "TransformJobStatus": job.status, "FailureReason": job.reason}
        return shown | {name: value for name, value in (facts | times).items() if value is not None}

    async def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        job = self._get(request["TransformJobName"])
        if job.status == "InProgress" and job.task:
            job.to("Stopping")
            job.task.cancel()
        return {}

    async def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        return page(request, self._jobs, "TransformJobSummaries", _summary, lambda job: job.status)

    async def _run(self, job: TransformJob, options: TransformOptions) -> None:
        """Ends the job in exactly one way."""
        try:
            environ = {**job.request.get("Environment", {}), **options.environment()}
            instance_type = job.request["TransformResources"]["InstanceType"]
            async with contextlib.AsyncExitStack() as stack:
                starts = [
                    self._copies.running(job.request["ModelName"], environ, f"transform-{job.name}-{number}", instance_type)
                    for number in range(options.num_copies)
                ]
                urls = [await stack.enter_async_context(start) for start in starts]
                job.started = datetime.now(UTC)
                await transform(options, urls, self._container, self._s3, self._retry_pause_s)
            status, reason = "Completed", None
        except asyncio.CancelledError:
            status, reason = "Stopped", None
        except HeadwayError as error:
            status, reason = "Failed", str(error)
        except Exception as bug:  # the edge of this task: a job that stays InProgress for ever would say nothing, as of a full disk
            announce(traceback.format_exception(bug))
            status, reason = "Failed", f"InternalServerError: the local runtime failed: {type(bug).__name__}: {bug}"
        job.ended = datetime.now(UTC)
        job.to(status, reason)


def _summary(job: TransformJob) -> dict[str, Any]:
    facts = {
        "TransformJobName": job.name,
        "TransformJobArn": job.arn,
        "CreationTime": job.created,
        "TransformEndTime": job.ended,
        "LastModifiedTime": job.modified,
        "TransformJobStatus": job.status,
        "FailureReason": job.reason,
    }
    return {name: value for name, value in facts.items() if value is not None}
