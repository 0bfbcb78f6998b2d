"""The one source of servers that the options name."""

from __future__ import annotations

from pathlib import Path

from headway.server.router.addresses import DNS, RAY, Directory
from headway.server.router.config import RouterConfig
from headway.server.router.sources.base import Addresses, Source
from headway.server.router.sources.dns import DnsName
from headway.server.router.sources.file import ServerFile
from headway.server.router.sources.named import Named


def source_of(config: RouterConfig) -> Source:
    """Raises ConfigError for a file, an account or a library that can't be used."""
    routing, discovery = config.routing, config.discovery

    def opened(place: Directory) -> Addresses:
        if place.kind == DNS:
            assert place.port is not None, "checked with the options"
            return DnsName(place.name, place.port)
        if place.kind == RAY:
            from headway.server.router.sources.ray_actors import RayActors

            return RayActors(place.name)
        from headway.server.router.sources.kubernetes import KubernetesService
        from headway.server.router.sources.kubernetes_api import KubernetesApi

        api = KubernetesApi(discovery.kubernetes_api, Path(discovery.kubernetes_account).expanduser())
        return KubernetesService(api, place.name, place.port)

    if routing.servers_file is not None:
        return ServerFile(routing.servers_file, routing.is_paired)
    return Named(routing.decode_servers if routing.is_paired else routing.servers, routing.prefill_servers, opened)
