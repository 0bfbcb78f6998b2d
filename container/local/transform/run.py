"""One batch transform job at work: each object of the input through the copies, its answers into one object of the output."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import tempfile
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from headway.container.local.container_call import NoReply, Reply, invoke
from headway.container.local.runtime.container import Container, ContainerLost
from headway.container.local.s3_objects import S3Uri, StorageError, explained, list_objects, open_object, write_object
from headway.container.local.transform.options import Pace, TransformOptions, pace
from headway.container.local.transform.records import TooLong, assembled, output_key, payloads, records, whole
from headway.server.errors import HeadwayError

_PARAMETERS_TIMEOUT_S = 10.0
_MOST_PARAMETERS_BYTES = 64 * 1024
_MOST_FAILURES_TOLD = 3
_SPOOL_BYTES = 4 << 20


class JobFailed(HeadwayError):
    """A job's FailureReason."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every object of a job is transformed with. ``retry_pause_s``: before a request is sent again."""

    options: TransformOptions
    pace: Pace
    container: Container
    s3: Any
    retry_pause_s: float


async def transform(options: TransformOptions, urls: Sequence[str], container: Container, s3: Any, retry_pause_s: float) -> None:
    """Objects go to the copies at ``urls`` in turn. What succeeds is written even if others fail. Raises JobFailed."""
    try:
        found = await asyncio.to_thread(list_objects, s3, options.source)
    except StorageError as error:
        raise JobFailed(f"ClientError: {error}") from error
    keys = [key for key, _ in found if not key.endswith("/")]
    if not keys:
        raise JobFailed(f"ClientError: No S3 objects found under S3 URL {str(options.source)!r} given in input data source.")
    work = Work(options, await _pace(options, urls[0], container), container, s3, retry_pause_s)
    copies = [_through_copy(work, url, keys[number :: len(urls)]) for number, url in enumerate(urls)]
    failures = [failure for failed in await asyncio.gather(*copies) for failure in failed]
    if failures:
        rest = f" (and {len(failures) - _MOST_FAILURES_TOLD} more)" if len(failures) > _MOST_FAILURES_TOLD else ""
        raise JobFailed("; ".join(failures[:_MOST_FAILURES_TOLD]) + rest)


async def _pace(options: TransformOptions, url: str, container: Container) -> Pace:
    try:
        status, content = await container.get(f"{url}/execution-parameters", _MOST_PARAMETERS_BYTES, _PARAMETERS_TIMEOUT_S)
    except ContainerLost as error:
        raise JobFailed(f"AlgorithmError: GET /execution-parameters failed: {error}.") from error
    if status != 200 or not content:
        return pace(options, {})
    try:
        told = json.loads(content)
        if not isinstance(told, dict):
            raise ValueError("it is no JSON object")
        return pace(options, told)
    except (ValueError, RecursionError) as error:
        raise JobFailed(f"AlgorithmError: the answer to GET /execution-parameters can't be used: {error}.") from error


async def _through_copy(work: Work, url: str, keys: Sequence[str]) -> list[str]:
    """Why objects failed. They are done one after the other, and the payloads of each side by side."""
    failures = []
    for key in keys:
        try:
            await _transform_object(work, url, key)
        except (JobFailed, StorageError) as error:
            failures.append(str(error))
    return failures


async def _transform_object(work: Work, url: str, key: str) -> None:
    source = S3Uri(work.options.source.bucket, key)
    target = work.options.output.below(output_key(key, work.options.source.key))
    content_type = work.options.headers.get("Accept", "application/octet-stream")
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as output:
        async with contextlib.aclosing(_answers(work, url, source)) as answers:
            async for answer in answers:
                output.write(assembled(answer, work.options.ends_lines))
        await asyncio.to_thread(write_object, work.s3, target, output, content_type)


async def _answers(work: Work, url: str, source: S3Uri) -> AsyncGenerator[bytes, None]:
    """In the order of the payloads, with no more requests open, or answers waiting, than the job allows."""
    body = await asyncio.to_thread(open_object, work.s3, source)
    waiting: list[asyncio.Task[bytes]] = []
    with contextlib.closing(body.stream):
        sent = _payloads(work, body.stream, source)
        try:
            while True:
                payload = await asyncio.to_thread(next, sent, None)
                if payload is not None:
                    waiting.append(asyncio.create_task(_invoke(work, url, payload, source)))
                if not waiting:
                    return
                if payload is None or len(waiting) >= work.pace.max_concurrent:
                    yield await waiting.pop(0)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def _payloads(work: Work, stream: IO[bytes], source: S3Uri) -> Iterator[bytes]:
    """Blocks while the object arrives. Raises JobFailed, StorageError."""
    limit = work.pace.max_payload_bytes
    content = gzip.GzipFile(fileobj=stream) if work.options.is_gzip else io.BufferedReader(cast(io.RawIOBase, stream))
    try:
        with explained(source), content:
            yield from _split(work, content, limit)
    except TooLong as error:
        raise JobFailed(f"ClientError: {source}: {error} is longer than MaxPayloadInMB allows; raise it, or split the input.") from error


def _split(work: Work, content: io.BufferedIOBase, limit: int) -> Iterator[bytes]:
    try:
        if work.options.is_split:
            yield from payloads(records(content, limit), limit, work.pace.is_multi)
        else:
            yield whole(content, limit)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise JobFailed(f"ClientError: {work.options.source}: an object is not gzip, as CompressionType says ({error}).") from error


async def _invoke(work: Work, url: str, payload: bytes, source: S3Uri) -> bytes:
    """The answer to a payload. Time-outs, broken connections and 5xx are tried again, as often as the job says. Raises JobFailed."""
    options = work.options
    for attempts_left in reversed(range(options.max_retries + 1)):
        try:
            reply = await invoke(work.container, url, options.headers, payload, options.timeout_s)
        except NoReply as error:
            problem = f"AlgorithmError: {source}: {error}"
        else:
            with reply.content:
                if reply.is_success:
                    return _content(reply)
                side = "ClientError" if reply.status < 500 else "AlgorithmError"
                problem = f"{side}: {source}: {reply.problem('the container')}"
                if side == "ClientError":
                    break
        if attempts_left:
            await asyncio.sleep(work.retry_pause_s)
    raise JobFailed(problem)


def _content(reply: Reply) -> bytes:
    reply.content.seek(0)
    return reply.content.read()
