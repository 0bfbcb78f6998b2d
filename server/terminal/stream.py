"""The events of a streamed answer, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
from pydantic_core import from_json

from headway.server.errors import HeadwayError
from headway.server.remote.endpoint import Endpoint
from headway.server.terminal.printing import printable

_SILENCE_S = 300.0


class AnswerFailed(HeadwayError):
    """The server refused the request, or its answer broke off."""


def choices(endpoint: Endpoint, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The first choice of each chunk. Raises AnswerFailed."""
    try:
        with (
            httpx2.Client(base_url=endpoint.url, headers=endpoint.headers, timeout=httpx2.Timeout(_SILENCE_S, connect=10)) as client,
            client.stream("POST", path, json={**body, "stream": True}) as response,
        ):
            if not response.is_success:
                raise AnswerFailed(_told(response.read()) or f"{path} answers {response.status_code}.")
            for event in httpx2.EventSource(response):
                if event.data == "[DONE]":
                    return
                chunk = from_json(event.data)
                if "error" in chunk:
                    raise AnswerFailed(_told(event.data.encode()) or "The server's answer broke off.")
                yield from chunk["choices"][:1]
    except httpx2.HTTPError as error:
        raise AnswerFailed(f"No answer from {endpoint.url}: {str(error) or type(error).__name__}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise AnswerFailed(f"{endpoint.url}{path} answers with something else than a stream of chunks.") from error


def _told(body: bytes) -> str | None:
    """The message of an error object, fit for a terminal."""
    try:
        return printable(str(from_json(body)["error"]["message"]))
    except (ValueError, LookupError, TypeError):
        return None
