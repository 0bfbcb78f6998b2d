"""Options about where and how the server listens, and how it stops."""

from __future__ import annotations

import os
import re

from headway.server.config.fields import Topic, option

# What Linux has room for in a socket's address (unix(7)), without the closing NUL.
_MAX_SOCKET_PATH_BYTES = 107
_OCTAL = re.compile(r"0?[0-7]{3}", re.ASCII)


class NetworkConfig(Topic):
    """Network."""

    host: str | None = option(
        None, "Address to listen on, IPv4 or IPv6, or a name that stands for addresses of this machine. Default: all interfaces."
    )
    port: int = option(8000, "Port to listen on.", ge=1024, le=65535)
    uds: str | None = option(None, "Unix socket to listen on, as a path; --host and --port then count for nothing.", location=True)
    uds_permissions: str | None = option(
        None, "Permissions of the --uds socket in octal, such as 666; who may write may connect. Default: 660 less the umask."
    )
    api_server_count: int = option(
        1,
        "API processes that share the port and the engine: for loads on which one core is too little for HTTP and tokenizing.",
        ge=1,
        le=64,
        short=("-asc",),
    )
    root_path: str = option("", "Path prefix that a proxy in front strips.")
    shutdown_timeout: int = option(25, "Seconds that open requests get to finish on SIGTERM.", ge=0)

    @property
    def uds_mode(self) -> int | None:
        return None if self.uds_permissions is None else int(self.uds_permissions, 8)


def network_problems(network: NetworkConfig) -> list[str]:
    found = []
    if network.root_path and not network.root_path.startswith("/"):
        found.append(f"--root-path must begin with a slash, got {network.root_path!r}")
    if network.uds is not None and "\0" in network.uds:
        found.append("--uds must be a path, and holds a NUL character")
    elif network.uds is not None and (length := len(os.fsencode(network.uds))) > _MAX_SOCKET_PATH_BYTES:
        found.append(f"--uds has {length} bytes, and a socket's path {_MAX_SOCKET_PATH_BYTES} at most: choose a shorter one")
    if network.uds_permissions is not None and not _OCTAL.fullmatch(network.uds_permissions):
        found.append(f"--uds-permissions must be three octal digits, such as 660, got {network.uds_permissions!r}")
    if network.uds_permissions is not None and network.uds is None:
        found.append("--uds-permissions is for the socket of --uds, which is not given: give both or neither")
    return found
