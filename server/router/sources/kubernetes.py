"""Servers that are the ready endpoints of a Service of Kubernetes: its EndpointSlices, listed once and then watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from headway.server.router.addresses import url_at
from headway.server.router.sources.changes import Changes
from headway.server.router.sources.kubernetes_api import ApiTrouble, KubernetesApi, VersionGone

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Conditions(msgspec.Struct):
    ready: bool | None = None  # None: to be taken for ready


class _Endpoint(msgspec.Struct):
    addresses: list[str] = []
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)


class _Port(msgspec.Struct):
    port: int | None = None
    protocol: str = "TCP"


class _Slice(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    address_type: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _Slices(msgspec.Struct):
    metadata: _Metadata
    items: list[_Slice] | None = None


_read_slices = msgspec.json.Decoder(_Slices).decode
_read_slice = msgspec.json.Decoder(_Slice).decode


class KubernetesService:
    """See Addresses. ``name``: the Service's, perhaps with its namespace behind a dot; ``port``: the pods', None where they have one."""

    def __init__(self, api: KubernetesApi, name: str, port: int | None) -> None:
        self._api = api
        self._service, _, namespace = name.partition(".")
        self._namespace = namespace or api.namespace()
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices"
        self._labels = f"kubernetes.io/service-name={self._service}"
        self._port = port
        self._slices: dict[str, _Slice] = {}

    async def run(self, tell: Callable[[list[str]], object]) -> None:
        changes = Changes(f"kubernetes://{self._service}.{self._namespace}", tell)
        pause_s = _FIRST_PAUSE_S
        async with self._api:
            while True:
                try:
                    since = await self._list()
                    self._tell(changes)
                    pause_s = _FIRST_PAUSE_S
                    while True:
                        since = await self._watch(since, changes)
                        await asyncio.sleep(_FIRST_PAUSE_S)  # something between may end each watch at once
                except VersionGone:
                    pass  # after a pause all the same, whatever an API server says
                except ApiTrouble as trouble:
                    changes.failed(str(trouble))
                except ValueError as problem:  # of msgspec, or of bytes that are no text
                    changes.failed(f"the API server's answer can't be read: {problem}")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _list(self) -> str:
        """What is there now; returns its version."""
        found = _read_slices(await self._api.list(self._path, self._labels))
        self._slices = {one.metadata.name: one for one in found.items or []}
        return found.metadata.resource_version

    async def _watch(self, since: str, changes: Changes) -> str:
        """Until the API server ends it; returns the version that is known then."""
        async for event in self._api.watch(self._path, self._labels, since):
            changed = _read_slice(event.object)
            since = changed.metadata.resource_version or since
            if event.type in ("ADDED", "MODIFIED"):
                self._slices[changed.metadata.name] = changed
            elif event.type == "DELETED":
                self._slices.pop(changed.metadata.name, None)
            if event.type != "BOOKMARK":
                self._tell(changes)
        return since

    def _tell(self, changes: Changes) -> None:
        try:
            changes.found(self._urls())
        except _WhichPort as problem:
            changes.failed(str(problem))

    def _urls(self) -> list[str]:
        """Of ready endpoints. A pod with addresses of both families is one server: those of IPv4 count if there are any."""
        by_family: dict[str, list[str]] = {}
        for one in self._slices.values():
            ready = [endpoint for endpoint in one.endpoints or [] if endpoint.conditions.ready is not False and endpoint.addresses]
            if ready:
                port = self._port_of(one)
                # All addresses of an endpoint are the same pod's.
                by_family.setdefault(one.address_type, []).extend(url_at(endpoint.addresses[0], port) for endpoint in ready)
        return by_family.get("IPv4") or by_family.get("IPv6") or []

    def _port_of(self, one: _Slice) -> int:
        if self._port is not None:
            return self._port
        ports = [port.port for port in one.ports or [] if port.port is not None and port.protocol == "TCP"]
        if len(ports) != 1:
            told = ", ".join(map(str, ports)) or "none"
            raise _WhichPort(f"its pods have not one port but {told}: name it, as kubernetes://{self._service}.{self._namespace}:PORT")
        return ports[0]


class _WhichPort(Exception):
    """``str()`` says what to do."""
