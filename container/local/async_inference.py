"""InvokeEndpointAsync: takes a request, has a copy answer it when there is room, writes the answer into S3 and tells SNS."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from headway.container.local.async_line import Expired, Line
from headway.container.local.async_notice import notice
from headway.container.local.async_request import AsyncRequest, read_request
from headway.container.local.container_call import NoReply, Reply, invoke
from headway.container.local.errors import PlatformError, validation_error
from headway.container.local.runtime.container import Container
from headway.container.local.runtime.members import container_headers
from headway.container.local.s3_objects import S3Body, S3Uri, StorageError, open_object, read_piece, write_object
from headway.container.local.storage import Storage
from headway.container.local.targets import AsyncInference, Target, Targets
from headway.server.errors import HeadwayError
from headway.server.say import say

MAX_WAITING = 2_000  # an endpoint; with the longest inline bodies 256 MB
_MAX_INPUT_BYTES = 1 << 30
# In the failureReason of a notice, as public code that reads such notices quotes it. What the container said is in S3.
_REFUSED = "ClientError: Received {} error ({}) from model. See the SageMaker Endpoint logs in your account for more information."


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a 202 says: its headers, and its body."""

    headers: Mapping[str, str]
    body: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Job:
    endpoint: str
    request: AsyncRequest
    config: AsyncInference
    received: float = field(default_factory=time.time)


class _Failed(HeadwayError):
    """``reply`` is the container's own, where it gave one."""

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


class AsyncInferences:
    """Owns the lines of all endpoints, and the tasks that answer what stands in them. To be used inside of `async with`."""

    def __init__(self, targets: Targets, storage: Storage, container: Container, max_waiting: int = MAX_WAITING) -> None:
        self._targets = targets
        self._storage = storage
        self._max_waiting = max_waiting
        self._container = container
        self._lines: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> AsyncInferences:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def num_waiting(self, endpoint: str) -> int:
        """What CloudWatch has as ApproximateBacklogSize."""
        return self._lines[endpoint].num_waiting if endpoint in self._lines else 0

    def submit(self, endpoint: str, headers: Mapping[str, str], body: bytes) -> Accepted:
        """Takes a call of `POST /endpoints/{endpoint}/async-invocations`; ``headers`` has lower-case names. Raises PlatformError."""
        config = self._targets.async_inference(endpoint)
        if config is None:
            raise validation_error(
                f"Endpoint {endpoint} has no AsyncInferenceConfig, and takes no asynchronous invocations: name one in its endpoint config."
            )
        request = read_request(headers, body, config)
        line = self._lines.setdefault(endpoint, Line(self._targets, endpoint))
        if line.num_waiting >= self._max_waiting:
            raise PlatformError(
                503, "ServiceUnavailable", f"{line.num_waiting} requests wait at endpoint {endpoint} already: try again later."
            )
        task = asyncio.get_running_loop().create_task(self._answer(line, _Job(endpoint, request, config)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        told = {"X-Amzn-SageMaker-OutputLocation": str(request.output)}
        if request.failure:
            told["X-Amzn-SageMaker-FailureLocation"] = str(request.failure)
        return Accepted(told, {"InferenceId": request.inference_id})

    async def _answer(self, line: Line, job: _Job) -> None:
        """Ends in one object in S3 and one notice, whatever happens."""
        try:
            async with line.place(job.request.ttl_s) as target:
                reply = await self._invoke(job.request, target)
            with contextlib.closing(reply.content):
                await asyncio.to_thread(self._keep, job.request.output, reply)
                await self._tell(job, reply, None)
        except Expired:
            await self._fail(job, _Failed(f"The request expired: it waited {job.request.ttl_s} seconds (RequestTTLSeconds) for a copy."))
        except _Failed as failure:
            await self._fail(job, failure)
        except (StorageError, PlatformError) as error:
            await self._fail(job, _Failed(str(error)))

    async def _invoke(self, request: AsyncRequest, target: Target) -> Reply:
        """A reply that is a success. Raises _Failed, StorageError."""
        headers = container_headers(request.members, target.adapter)
        async with self._content(request) as (content, num_bytes):
            try:
                reply = await invoke(self._container, target.url, headers, content, request.timeout_s, num_bytes)
            except NoReply as error:
                raise _Failed(str(error)) from error
        if not reply.is_success:
            raise _Failed(_REFUSED.format(reply.side, reply.status), reply)
        if reply.is_chunked:
            reply.content.close()
            raise _Failed("The container's reply is chunked, which asynchronous inference does not take: send it with Content-Length.")
        return reply

    @contextlib.asynccontextmanager
    async def _content(self, request: AsyncRequest) -> AsyncIterator[tuple[bytes | AsyncIterator[bytes], int | None]]:
        """What to send, and the length of what arrives in pieces."""
        if request.input_uri is None:
            yield request.body or b"", None
            return
        body = await asyncio.to_thread(open_object, self._storage.s3, request.input_uri)
        with contextlib.closing(body.stream):
            if body.size > _MAX_INPUT_BYTES:
                raise _Failed(f"The input {request.input_uri} has {body.size} bytes, and at most {_MAX_INPUT_BYTES} are taken.")
            yield _pieces(body, request.input_uri), body.size

    async def _fail(self, job: _Job, failure: _Failed) -> None:
        request, reply = job.request, failure.reply
        say("warning", f"asynchronous inference {request.inference_id} at {job.endpoint}: {failure}")
        with reply.content if reply else io.BytesIO(str(failure).encode()) as content:
            said = reply or Reply(0, "text/plain; charset=utf-8", content, is_chunked=False)
            if request.failure:
                try:
                    await asyncio.to_thread(self._keep, request.failure, said)
                except StorageError as error:
                    say("warning", f"the failure of {request.inference_id} could not be written: {error}")
            await self._tell(job, reply, str(failure))

    def _keep(self, uri: S3Uri, reply: Reply) -> None:
        write_object(self._storage.s3, uri, reply.content, reply.content_type)

    async def _tell(self, job: _Job, reply: Reply | None, reason: str | None) -> None:
        topic = job.config.error_topic if reason else job.config.success_topic
        if topic is None:
            return
        message = notice(job.request, job.endpoint, job.received, self._storage.region, reply, reason, job.config.include_response_in)
        try:
            await asyncio.to_thread(self._storage.publish, topic, message)
        except StorageError as error:
            say("warning", f"the notice of {job.request.inference_id} could not be published: {error}")


async def _pieces(body: S3Body, uri: S3Uri) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(read_piece, body, uri):
        yield piece
