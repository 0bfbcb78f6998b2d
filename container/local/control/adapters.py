"""The adapters' routes of a running copy: POST /adapters, DELETE /adapters/{name}."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headway.container.local.copies.base import Copy, CopyFailed
from headway.container.local.health import new_session
from headway.server.say import one_line
from headway.server.words import cut

if TYPE_CHECKING:
    from aiohttp import ClientSession

_LIMIT_S = 300
_MAX_ANSWER_BYTES = 64 * 1024


class AdapterCalls:
    """Owns its connections; ``close`` it."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    async def load(self, copy: Copy, name: str, directory: str) -> None:
        """``directory`` is a name below the copy's adapters. Raises CopyFailed with the container's answer."""
        body = {"name": name, "src": copy.adapter_source(directory), "preload": True, "pin": False}
        await self._call("POST", f"{copy.url}/adapters", body)

    async def unload(self, copy: Copy, name: str) -> None:
        """Raises CopyFailed with the container's answer."""
        await self._call("DELETE", f"{copy.url}/adapters/{quote(name, safe='')}", None)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(self, method: str, url: str, body: dict[str, Any] | None) -> None:
        import aiohttp

        if self._session is None:
            self._session = new_session()
        try:
            limit = aiohttp.ClientTimeout(total=_LIMIT_S)
            async with self._session.request(method, url, json=body, timeout=limit, allow_redirects=False) as answer:
                told = (await answer.content.read(_MAX_ANSWER_BYTES)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise CopyFailed(f"The container did not answer {method} /adapters: {type(problem).__name__}.") from problem
        if not 200 <= answer.status < 300:
            raise CopyFailed(f"The container answered {answer.status} to {method} /adapters: {cut(one_line(told), 500)}")
