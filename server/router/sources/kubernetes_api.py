"""The two requests that Kubernetes' API server is asked: what is there now, and what has changed since.

Plain HTTP, since that is all: the client libraries have 3 to 7 MB, most of it for other requests, and leave list, watch and what follows
an expired version to their caller just the same.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from headway.server.errors import ConfigError, HeadwayError
from headway.server.router.upstream import watched_socket

# The API server ends a watch by itself after this time; a connection that hangs is given up a little later.
_WATCH_S, _GRACE_S = 300, 30
_ANSWER_S = 30.0
# An EndpointSlice has at most 1,000 endpoints.
_LONGEST_LINE_BYTES = 8 * 1024 * 1024
_MOST_SHOWN = 200


class ApiTrouble(HeadwayError):
    """The API server is not there, or does not answer as asked. ``str()`` says how, and what helps."""


class VersionGone(HeadwayError):
    """What has changed since then it knows no more: list again."""


class Event(msgspec.Struct):
    """A line of a watch. ``type``: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


_read_event = msgspec.json.Decoder(Event).decode
_read_status = msgspec.json.Decoder(_Status).decode


class KubernetesApi:
    """Entered on the loop that uses it. ``account`` is the folder of a pod's service account, whose token is renewed within the hour: it
    is read for each request. Raises ConfigError when made without one."""

    def __init__(self, url: str, account: Path) -> None:
        self._url = url.rstrip("/")
        self._account = account
        try:
            self._context = ssl.create_default_context(cafile=account / "ca.crt")
            self._token()
        except (OSError, ValueError) as problem:
            advice = f"ca.crt and token, by which a pod knows the API server, can't be used there: {_reason(problem)}"
            raise ConfigError([f"--kubernetes-account {account}: {advice}"]) from None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, socket_factory=watched_socket)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, read_bufsize=_LONGEST_LINE_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def namespace(self) -> str:
        """The pod's own. Raises ConfigError."""
        try:
            return (self._account / "namespace").read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as problem:
            advice = f"namespace can't be read ({_reason(problem)}): name it, as kubernetes://SERVICE.NAMESPACE"
            raise ConfigError([f"--kubernetes-account {self._account}: {advice}"]) from None

    async def list(self, path: str, labels: str) -> bytes:
        """The answer's JSON. Raises ApiTrouble."""
        try:
            async with self._get(path, {"labelSelector": labels}, _ANSWER_S) as answer:
                return await self._checked(answer).read()
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise self._no_answer(problem) from None

    async def watch(self, path: str, labels: str, since: str) -> AsyncIterator[Event]:
        """What changes after the version ``since``, until the API server ends it. Raises ApiTrouble, VersionGone."""
        asked = {
            "labelSelector": labels,
            "watch": "1",
            "resourceVersion": since,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_S),
        }
        try:
            async with self._get(path, asked, _WATCH_S + _GRACE_S) as answer:
                async for line in self._checked(answer).content:
                    event = _read_event(line)
                    if event.type == "ERROR":
                        raise _told(_read_status(event.object))
                    yield event
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise self._no_answer(problem) from None

    def _get(self, path: str, asked: dict[str, str], limit_s: float) -> Any:
        headers = {"authorization": f"Bearer {self._token()}", "accept": "application/json"}
        timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=5.0)
        return self._session.get(self._url + path, params=asked, headers=headers, timeout=timeout, allow_redirects=False)

    def _token(self) -> str:
        return (self._account / "token").read_text(encoding="ascii").strip()

    def _checked(self, answer: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        match answer.status:
            case 200:
                return answer
            case 410:
                raise VersionGone("gone")
            case 401:
                raise ApiTrouble(f"the API server {self._url} does not take the token of {self._account} (401)")
            case 403:
                raise ApiTrouble(
                    "the pod's service account may not list and watch endpointslices of discovery.k8s.io in that namespace (403): "
                    "give it the Role in docs/router.md"
                )
        raise ApiTrouble(f"the API server {self._url} answers {answer.status}")

    def _no_answer(self, problem: Exception) -> ApiTrouble:
        """Never with what was sent: the token is in it."""
        why = "it did not answer in time" if isinstance(problem, TimeoutError) else " ".join(str(problem).split()) or type(problem).__name__
        return ApiTrouble(f"the API server {self._url} can't be asked ({why[:_MOST_SHOWN]})")


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)


def _told(status: _Status) -> HeadwayError:
    if status.code == 410:
        return VersionGone(status.message)
    return ApiTrouble(f"the API server ended its answer with {status.code}: {status.message[:_MOST_SHOWN]}")
