"""Ports of the loopback address for copies on the machine's own network."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that was free a moment ago. A copy that finds it taken exits, and is started anew on another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
