"""The API key: guards every route but those that probes and scrapers need."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.errors import Unauthorized, response_to
from headway.server.api.keys import ApiKeys
from headway.server.api.paths import is_of_messages, route_path

OPEN_PATHS = frozenset({"/ping", "/health", "/metrics", "/version"})
_DIGEST = "headway.key_digest"
_HEADER = "`Authorization: Bearer KEY`"
# Of Anthropic's clients, on the routes of that API; either header will do there.
_KEY_HEADER = b"x-api-key"
_HEADERS = f"`x-api-key: KEY` or {_HEADER}"
_OTHER_SCHEME = f"The Authorization header must hold the word Bearer, a blank and the API key: send {_HEADER}."


class ApiKeyMiddleware:
    """Lets a request through if it brings one of ``keys``, or asks for an open path or one below ``open_prefixes``.

    CORS preflights, which can bring no key, are answered before they come here.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, open_prefixes: Sequence[str] = ()) -> None:
        self.app = app
        self._keys = keys
        self._open_prefixes = open_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(route_path(scope), self._open_prefixes):
            await self.app(scope, receive, send)
        elif (refusal := self._refusal(scope)) is not None:  # of a WebSocket too: it answers the handshake
            await response_to(Unauthorized(refusal))(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        takes_key_header = is_of_messages(route_path(scope))
        headers = _HEADERS if takes_key_header else _HEADER
        given = _header(scope, b"authorization")
        texts = [] if given is None else [_bearer(given)]
        if takes_key_header:
            texts.append(_header(scope, _KEY_HEADER))
        keys = [text.strip() for text in texts if text is not None and text.strip()]
        if not keys:
            return f"This server needs an API key: send it as the header {headers}." if given is None else _OTHER_SCHEME
        found = [key for key in map(self._keys.find, keys) if key is not None]
        if not found:
            return f"This API key is not valid: send one that is, as the header {headers}."
        scope["headway.key_name"] = found[0].name
        scope[_DIGEST] = found[0].digest
        return None


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _bearer(authorization: bytes) -> bytes | None:
    scheme, _, text = authorization.partition(b" ")
    return text if scheme.lower() == b"bearer" else None


def owner_of(connection: HTTPConnection) -> bytes:
    """Whose request it is: the hash of its key, and nothing where no key is asked for, so that everybody is one there."""
    digest: bytes = connection.scope.get(_DIGEST, b"")
    return digest


def is_open(path: str, open_prefixes: Sequence[str]) -> bool:
    """Of the path as the router takes it: decoded once, and nothing resolved. What might lead elsewhere for anyone is not open."""
    if path.rstrip("/") in OPEN_PATHS:
        return True
    if not (path + "/").startswith(tuple(prefix.rstrip("/") + "/" for prefix in open_prefixes)):
        return False
    return "//" not in path and "\\" not in path and "%" not in path and not {".", ".."} & set(path.split("/"))
