"""The options of `headway router`. Those about connections and TLS are the server's own."""

from __future__ import annotations

from typing import Literal

from headway.server.config.connections import ConnectionsConfig
from headway.server.config.fields import Topic, option
from headway.server.config.tls import TlsConfig, tls_problems
from headway.server.router.addresses import addresses_problem, distinct, url_problem

_NAME_THEM = "name the servers: --servers http://a:8080,http://b:8080, or --servers-file FILE"
_NAME_PAIRED = "name the servers of both kinds: --prefill-servers http://a:8080 --decode-servers http://b:8080, or --servers-file FILE"
_DO_INSTEAD = {True: "name --prefill-servers and --decode-servers", False: "name --servers, or add --policy disaggregated"}


class RoutingConfig(Topic):
    """Servers and how one is chosen."""

    servers: list[str] = option(
        [],
        "The servers, as http://a:8080,http://b:8080; or one place that knows them: dns://NAME:PORT, kubernetes://SERVICE.NAMESPACE, "
        "ray-actors://NAMESPACE.",
        metavar="URL,URL",
    )
    prefill_servers: list[str] = option(
        [], "With --policy disaggregated, servers that compute prompts for others. Named as --servers are.", metavar="URL,URL"
    )
    decode_servers: list[str] = option(
        [], "With --policy disaggregated, servers that answer, with the KV cache of a prefill server.", metavar="URL,URL"
    )
    servers_file: str | None = option(
        None,
        "A file that names the servers in the place of the options and may change meanwhile: a JSON or YAML list, or a URL a line.",
        location=True,
    )
    policy: Literal["least-load", "prefix", "round-robin", "disaggregated"] = option(
        "least-load",
        "least-load: the server with the least to do; prefix: requests that begin alike go to one server, whose prefix cache then knows "
        "them; round-robin: in turn; disaggregated: a prefill server first, by prefix, then with its KV cache the decode server with the "
        "least to do.",
    )
    prefix_bytes: int = option(
        1024, "Most bytes of a prompt's beginning that prefix and disaggregated tell requests apart by.", ge=16, human=True
    )
    retries: int = option(2, "Further servers that a request is sent to while none has begun to answer it.", ge=0, le=10)
    max_request_body_bytes: int = option(16 * 1024 * 1024, "Largest request body; a larger one is answered 413.", ge=1024, human=True)

    @property
    def is_paired(self) -> bool:
        return self.policy == "disaggregated"


class DiscoveryConfig(Topic):
    """Where servers are found."""

    kubernetes_api: str = option("https://kubernetes.default.svc", "The API server that kubernetes:// asks; https only.", metavar="URL")
    kubernetes_account: str = option(
        "/var/run/secrets/kubernetes.io/serviceaccount",
        "Folder with the token, ca.crt and namespace of a pod's service account, to ask it with.",
        location=True,
    )


class UpstreamConfig(Topic):
    """Connections to the servers."""

    ca: str | None = option(
        None, "Certificates of authorities that vouch for https servers, a PEM file. Default: the system's.", location=True
    )
    connect_timeout_s: float = option(2.0, "Seconds that a server gets to take a connection.", gt=0)
    health_path: str = option("/ping", "The path at which each server is asked for its health.")
    health_interval_s: float = option(2.0, "Seconds between two such questions.", gt=0)
    health_timeout_s: float = option(3.0, "Seconds that a server gets to answer one.", gt=0)
    eject_after: int = option(
        3, "Failures in a row after which a silent server gets no requests; one that refuses gets none at once.", ge=1
    )


class ListenConfig(Topic):
    """Where the router listens, and how it stops."""

    host: str | None = option(None, "Address to listen on, or a name that stands for addresses of this machine. Default: all interfaces.")
    workers: int = option(1, "Processes that share the port. One passes on what one core can.", ge=1, le=64)
    port: int = option(8000, "Port to listen on.", ge=0, le=65535)
    shutdown_timeout: int = option(25, "Seconds that open requests get to finish on SIGTERM.", ge=0)


class RouterLogConfig(Topic):
    """Logs."""

    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = option("INFO", "Level of the log, but for the access log.")
    log_format: Literal["text", "json"] = option("text", "json writes each log line as an object.")
    access_log: bool = option(True, "A line for each request.")


class RouterConfig(Topic):
    """Everything a user may set, as asked; frozen."""

    routing: RoutingConfig = RoutingConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    upstream: UpstreamConfig = UpstreamConfig()
    listen: ListenConfig = ListenConfig()
    connections: ConnectionsConfig = ConnectionsConfig()
    tls: TlsConfig = TlsConfig()
    logs: RouterLogConfig = RouterLogConfig()


def router_problems(config: RouterConfig) -> list[str]:
    """A sentence for each thing in a config that can't be served; empty when all is well."""
    path = config.upstream.health_path
    found = tls_problems(config.tls) + _naming_problems(config.routing)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        found.append(f"--health-path must be a path such as /ping, got {path!r}")
    if (problem := url_problem(api := config.discovery.kubernetes_api)) or not api.lower().startswith("https://"):
        found.append(f"--kubernetes-api: {problem or f'a token is sent there, so it must be https://, got {api!r}'}")
    return found


def _naming_problems(routing: RoutingConfig) -> list[str]:
    """Of the one source of servers that there must be."""
    by_role = {"--prefill-servers": routing.prefill_servers, "--decode-servers": routing.decode_servers}
    named = by_role if routing.is_paired else {"--servers": routing.servers}
    misplaced = {"--servers": routing.servers} if routing.is_paired else by_role
    found = [
        f"{flag} {'has no place beside' if routing.is_paired else 'is for'} --policy disaggregated: {_DO_INSTEAD[routing.is_paired]}"
        for flag, addresses in misplaced.items()
        if addresses
    ]
    if routing.servers_file is not None:
        found += [f"{flag} and --servers-file both name the servers: leave one of them out" for flag, given in named.items() if given]
    elif not found and not all(named.values()):
        found.append(_NAME_PAIRED if routing.is_paired else _NAME_THEM)
    found += [f"{flag}: {problem}" for flag, given in named.items() if (problem := addresses_problem(given))]
    if both := set(distinct(routing.prefill_servers)) & set(distinct(routing.decode_servers)):
        found.append(f"{min(both)} stands in --prefill-servers and in --decode-servers: leave it in one of them")
    return found
