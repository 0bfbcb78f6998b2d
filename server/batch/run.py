"""run-batch: sends the requests of a file, many at a time, and writes what is answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from headway.server.batch.lines import BatchLine
from headway.server.batch.results import ResultFile
from headway.server.remote.endpoint import Endpoint, ServerUnreachable

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 300.0
_backoff = wait_random_exponential(multiplier=0.5, max=30)


@dataclass(slots=True)
class Tally:
    num_answered: int = 0
    num_failed: int = 0


class _AskAgain(Exception):
    """An answer that may be another one later, or none. ``after_s``: when the server says that it may."""

    def __init__(self, response: httpx2.Response | None, cause: str) -> None:
        super().__init__(cause)
        self.response = response
        given = response.headers.get("retry-after", "") if response is not None else ""
        self.after_s = min(float(given), _LONGEST_WAIT_S) if given.isdecimal() else None


async def run(
    lines: Iterator[BatchLine],
    endpoint: Endpoint,
    results: ResultFile,
    tally: Tally,
    *,
    max_concurrency: int,
    max_attempts: int,
    timeout_s: float | None,
    on_result: Callable[[], None],
) -> None:
    """Sends ``lines``, writes ``results`` and adds to ``tally``.

    Raises ServerUnreachable when nobody answers any more; what is written stays.
    """
    limits = httpx2.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency)
    timeout = httpx2.Timeout(timeout_s, connect=10)

    async with httpx2.AsyncClient(base_url=endpoint.url, headers=endpoint.headers, timeout=timeout, limits=limits) as client:

        async def work() -> None:
            for line in lines:  # shared: each worker takes the next
                result = await _result(client, line, max_attempts)
                results.write(result)
                tally.num_answered += result["error"] is None
                tally.num_failed += result["error"] is not None
                on_result()

        unreachable: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max_concurrency):
                    group.create_task(work())
        except* ServerUnreachable as errors:
            unreachable = errors.exceptions[0]
        if unreachable is not None:  # raised in there it would be wrapped in a group, by Python 3.11.2 at least
            raise unreachable


async def _result(client: httpx2.AsyncClient, line: BatchLine, max_attempts: int) -> dict[str, Any]:
    """A line of the output file."""
    attempts = AsyncRetrying(stop=stop_after_attempt(max_attempts), wait=_wait_s, retry=retry_if_exception_type(_AskAgain), reraise=True)
    request_id = uuid.uuid4().hex
    try:
        response: httpx2.Response = await attempts(_post, client, line, request_id)
    except _AskAgain as error:
        if error.response is None:
            raise ServerUnreachable(f"The server does not answer any more ({error}); --resume goes on once it does.") from error
        response = error.response
    body = _json_of(response)
    return {
        "id": f"batch_req_{request_id}",
        "custom_id": line.custom_id,
        "response": {"status_code": response.status_code, "request_id": request_id, "body": body},
        "error": None if response.is_success else _error_of(response, body),
    }


async def _post(client: httpx2.AsyncClient, line: BatchLine, request_id: str) -> httpx2.Response:
    try:
        response = await client.post(line.url, json=line.body, headers={"x-request-id": request_id})
    except httpx2.TransportError as error:
        raise _AskAgain(None, str(error) or type(error).__name__) from error
    if response.status_code in _AGAIN and response.headers.get("x-should-retry") != "false":
        raise _AskAgain(response, f"status {response.status_code}")
    return response


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _AskAgain) and error.after_s is not None:
        return error.after_s
    return _backoff(state)


def _json_of(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text


def _error_of(response: httpx2.Response, body: Any) -> dict[str, str]:
    told = body.get("error") if isinstance(body, dict) else None
    message = told.get("message") if isinstance(told, dict) else None
    return {"code": str(response.status_code), "message": str(message or response.reason_phrase)}
