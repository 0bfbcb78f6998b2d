"""How many connections may be open, and what becomes of those above."""

from __future__ import annotations

import enum
import logging
import resource
import time

from headway.server.config.connections import ConnectionsConfig

log = logging.getLogger(__name__)

# Health checks above the limit at a time, with what each of those who crowd them out holds for a moment.
NUM_SPARE = 128
_TELL_EVERY_S = 60.0


class Allowance(enum.Enum):
    """What a new connection may do."""

    ALL = "all"
    HEALTH = "health"  # one request of /ping or /health; any other is answered 503
    NOTHING = "nothing"  # it is cut


class ConnectionLimit:
    """One server's limit."""

    def __init__(self, connections: ConnectionsConfig) -> None:
        self.max_connections = connections.max_connections or _that_the_process_has_files_for()
        self._told_at = -_TELL_EVERY_S

    def admit(self, num_open: int) -> Allowance:
        """For a new connection, which ``num_open`` counts too."""
        if num_open <= self.max_connections:
            return Allowance.ALL
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            log.warning("%d connections are open, as many as there may be (--max-connections): new ones are refused", self.max_connections)
        return Allowance.HEALTH if num_open <= self.max_connections + NUM_SPARE else Allowance.NOTHING


def _that_the_process_has_files_for() -> int:
    """Seven eighths of its limit: files, the engine's sockets and handshakes under way need some too."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit - limit // 8 if limit != resource.RLIM_INFINITY else 2**20
