"""Options about where and how the server listens, and how it stops."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class NetworkConfig(Topic):
    """Network."""

    host: str | None = option(None, "Address to listen on. Default: all interfaces.")
    port: int = option(8000, "Port to listen on.", ge=1, le=65535)
    api_server_count: int = option(
        1,
        "API processes that share the port and the engine: for loads on which one core is too little for HTTP and tokenizing.",
        ge=1,
        le=64,
        short=("-asc",),
    )
    root_path: str = option("", "Path prefix that a proxy in front strips.")
    shutdown_timeout: int = option(25, "Seconds that open requests get to finish on SIGTERM.", ge=0)


def network_problems(network: NetworkConfig) -> list[str]:
    if network.root_path and not network.root_path.startswith("/"):
        return [f"--root-path must begin with a slash, got {network.root_path!r}"]
    return []
