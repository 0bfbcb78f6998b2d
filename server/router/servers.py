"""A server as the router knows it: what it does now, as far as can be told from here."""

from __future__ import annotations

from dataclasses import dataclass, field

from headway.server.router.health import Health
from headway.server.router.load_report import LoadReport


@dataclass(slots=True, eq=False)
class Server:
    """``num_open``: requests that this router has open there. ``report``: what the server last said of itself."""

    url: str
    health: Health = field(default_factory=Health)
    num_open: int = 0
    report: LoadReport | None = None
