"""One request and what came back, read to a bound."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from headway.container.conformance.outcome import Failed
from headway.server.words import cut

_MAX_ANSWER_BYTES = 32 * 2**20
# A time limit between two pieces ends no answer that drips.
_MAX_ANSWER_S = 480.0  # the platform's, of a stream
_MAX_CHUNKS = 2**18
_SHOWN_HEADERS = ("content-type", "content-length", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Exchange:
    """``chunks`` are the pieces of the body as they came; ``is_whole`` is False if the connection broke off before the body's end."""

    request: str
    status: int
    headers: httpx2.Headers
    chunks: tuple[bytes, ...]
    is_whole: bool
    duration_s: float

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Raises Failed where the body is no JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise Failed(f"{self.request} answers something else than JSON: {cut(self.text, 100)!r}") from error

    @property
    def evidence(self) -> str:
        """`POST /invocations -> 200 in 0.12 s, content-type: application/json, 213 bytes: ...`"""
        headers = "".join(f", {name}: {self.headers[name]}" for name in _SHOWN_HEADERS if name in self.headers)
        broken = "" if self.is_whole else ", broken off"
        shown = f": {cut(self.text, 120)}" if self.content else ""
        return f"{self.request} -> {self.status} in {self.duration_s:.3f} s{headers}, {len(self.content)} bytes{broken}{shown}"


def exchange(
    client: httpx2.Client, method: str, path: str, content: bytes, headers: Mapping[str, str], timeout_s: float | None = None
) -> Exchange:
    """Raises Failed where there is no answer, or one that is too large to keep."""
    request, started = f"{method} {path}", time.monotonic()
    timeout = client.timeout if timeout_s is None else timeout_s
    deadline = started + _MAX_ANSWER_S
    chunks: list[bytes] = []
    is_whole, num_bytes = True, 0
    try:
        with client.stream(method, path, content=content or None, headers=dict(headers), timeout=timeout) as response:
            try:
                for chunk in response.iter_raw():
                    chunks.append(chunk)
                    num_bytes += len(chunk)
                    if num_bytes > _MAX_ANSWER_BYTES:
                        raise Failed(f"{request} answers with more than {_MAX_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline or len(chunks) > _MAX_CHUNKS:
                        raise Failed(f"{request} is answered in pieces without end: {len(chunks)} in {time.monotonic() - started:.0f} s")
            except (httpx2.RemoteProtocolError, httpx2.ReadError):
                is_whole = False
    except httpx2.HTTPError as error:
        raise Failed(f"{request} is not answered within {time.monotonic() - started:.1f} s: {describe(error)}") from error
    return Exchange(request, response.status_code, response.headers, tuple(chunks), is_whole, time.monotonic() - started)


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
