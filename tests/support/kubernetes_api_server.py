"""As much of a Kubernetes API server as watching EndpointSlices needs: TLS, tokens, list, watch, versions that expire."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from certificates import Authority

LIST_PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def endpoint_slice(name: str, service: str, ready: dict[str, bool | None], port: int, family: str = "IPv4") -> dict[str, Any]:
    """``ready`` by address."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": {} if now is None else {"ready": now}} for address, now in ready.items()],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


class KubernetesApiServer:
    """Of one namespace. ``put`` and ``remove`` change what is there; ``expire`` forgets all versions but the newest; ``cut`` ends open
    watches as the loss of a connection does; ``refusal`` is a status that all requests get, ``garbage`` a body; ``is_brief``: each watch
    ends at once."""

    def __init__(self, namespace: str, token: str) -> None:
        self.namespace = namespace
        self.token = token
        self.refusal: int | None = None
        self.garbage: bytes | None = None
        self.is_brief = False
        self.num_lists = 0
        self.num_watches = 0
        self.url = ""
        self._slices: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._version = 100
        self._oldest = 100
        self._changed = asyncio.Condition()
        self._watches: list[web.Request] = []

    async def put(self, one: dict[str, Any]) -> None:
        name = one["metadata"]["name"]
        kind = "MODIFIED" if name in self._slices else "ADDED"
        self._slices[name] = one
        await self._happened(kind, one)

    async def remove(self, name: str) -> None:
        await self._happened("DELETED", self._slices.pop(name))

    async def bookmark(self) -> None:
        await self._happened("BOOKMARK", {"metadata": {}})

    async def _happened(self, kind: str, one: dict[str, Any]) -> None:
        async with self._changed:
            self._version += 1
            one = {**one, "metadata": {**one["metadata"], "resourceVersion": str(self._version)}}
            self._events.append((self._version, {"type": kind, "object": one}))
            self._changed.notify_all()

    def _is_newer(self, since: int) -> bool:
        return self._version > since

    def expire(self) -> None:
        self._oldest = self._version
        self._events.clear()

    def cut(self) -> None:
        for request in self._watches:
            assert request.transport is not None
            request.transport.abort()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.refusal is not None:
            return _status(self.refusal, "refused")
        if self.garbage is not None:
            return web.Response(body=self.garbage)
        if request.path != LIST_PATH.format(namespace=self.namespace):
            return _status(403, "forbidden")
        label, _, service = request.query["labelSelector"].partition("=")
        assert label == "kubernetes.io/service-name"
        if request.query.get("watch"):
            return await self._watch(request, service)
        self.num_lists += 1
        items = [one for one in self._slices.values() if one["metadata"]["labels"][label] == service]
        return web.json_response({"kind": "EndpointSliceList", "metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, service: str) -> web.StreamResponse:
        assert request.query["allowWatchBookmarks"] == "true"
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        self.num_watches += 1
        if self.is_brief:
            return response
        self._watches.append(request)
        try:
            while since >= self._oldest:
                async with self._changed:
                    await self._changed.wait_for(partial(self._is_newer, since))
                    fresh = [event for version, event in self._events if version > since]
                    since = self._version
                for event in fresh:
                    labels = event["object"]["metadata"].get("labels", {})
                    if event["type"] == "BOOKMARK" or labels.get("kubernetes.io/service-name") == service:
                        await response.write(json.dumps(event).encode() + b"\n")
            gone = {"kind": "Status", "code": 410, "message": f"too old resource version: {since} ({self._oldest})"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        finally:
            self._watches.remove(request)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


def write_account(folder: Path, authority: Authority, namespace: str, token: str) -> None:
    """What a pod finds at /var/run/secrets/kubernetes.io/serviceaccount."""
    (folder / "ca.crt").write_bytes(authority.pem)
    (folder / "namespace").write_text(namespace)
    (folder / "token").write_text(token + "\n")


@asynccontextmanager
async def kubernetes_api_server(account: Path, namespace: str = "models", token: str = "token-1") -> AsyncIterator[KubernetesApiServer]:
    """One that runs, and whose account is in the folder ``account``."""
    authority = Authority()
    write_account(account, authority, namespace, token)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.identity().configure_cert(context)
    server = KubernetesApiServer(namespace, token)
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        server.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
