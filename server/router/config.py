"""The options of `headway router`. Those about connections and TLS are the server's own."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from headway.server.config.connections import ConnectionsConfig
from headway.server.config.fields import Topic, option
from headway.server.config.tls import TlsConfig, tls_problems
from headway.server.words import cut

_LONGEST_URL = 200
_GOOD_URL = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+(%[a-z0-9._-]+)?\])(:[0-9]{1,5})?/?", re.IGNORECASE)


class RoutingConfig(Topic):
    """Servers and how one is chosen."""

    servers: list[str] = option([], "The servers, as http://a:8080,http://b:8080.", metavar="URL,URL")
    servers_file: str | None = option(
        None,
        "A file that names them in the place of --servers and may change meanwhile: a JSON or YAML list, or a URL a line.",
        location=True,
    )
    policy: Literal["least-load", "prefix", "round-robin"] = option(
        "least-load",
        "least-load: the server with the least to do; prefix: requests that begin alike go to one server, whose prefix cache then knows "
        "them; round-robin: in turn.",
    )
    prefix_bytes: int = option(
        1024, "Most bytes of a prompt's beginning that the policy prefix tells requests apart by.", ge=16, human=True
    )
    retries: int = option(2, "Further servers that a request is sent to while none has begun to answer it.", ge=0, le=10)
    max_request_body_bytes: int = option(16 * 1024 * 1024, "Largest request body; a larger one is answered 413.", ge=1024, human=True)


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
    upstream: UpstreamConfig = UpstreamConfig()
    listen: ListenConfig = ListenConfig()
    connections: ConnectionsConfig = ConnectionsConfig()
    tls: TlsConfig = TlsConfig()
    logs: RouterLogConfig = RouterLogConfig()


def router_problems(config: RouterConfig) -> list[str]:
    """A sentence for each thing in a config that can't be served; empty when all is well."""
    routing, path = config.routing, config.upstream.health_path
    found = tls_problems(config.tls)
    if not routing.servers and routing.servers_file is None:
        found.append("name the servers: --servers http://a:8080,http://b:8080, or --servers-file FILE")
    if routing.servers and routing.servers_file is not None:
        found.append("--servers and --servers-file both name the servers: leave one of them out")
    found += [f"--servers: {problem}" for problem in map(url_problem, routing.servers) if problem]
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        found.append(f"--health-path must be a path such as /ping, got {path!r}")
    return found


def url_problem(url: str) -> str | None:
    """What is wrong with a server's address; None where it is good."""
    try:
        parts = urlsplit(url)  # ValueError: an address or a port that there can't be
        if _GOOD_URL.fullmatch(url) and parts.port != 0 and (parts.hostname or "").encode("idna"):
            return None
    except ValueError:  # of idna: a name of empty or endless parts, which no resolver takes
        pass
    shown = cut(url.rpartition("@")[2], _LONGEST_URL)  # what stands before may be a password
    return f"a server is http:// or https://, a host and perhaps a port, as http://10.0.0.7:8080; got {shown!r}"


def plain_url(url: str) -> str:
    """A good address as it is kept: two spellings of one server are one."""
    return url.rstrip("/").lower()
