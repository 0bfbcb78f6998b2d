"""What an API process beside the leader is started with."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.server.config.server import ServerConfig


@dataclass(frozen=True)
class FollowerArguments:
    """Handed over through a pipe, since ``config`` holds the secrets that requests are checked with."""

    index: int  # 1 and above
    config: ServerConfig
    directory: Path  # where it meets the leader and the engine
    cache_dir: Path
    listeners: list[socket.socket]  # its own: bound, and not listening yet
    telemetry: Mapping[str, str]  # OpenTelemetry's variables
    niceness: int  # the leader's when it began, and so the engine's
