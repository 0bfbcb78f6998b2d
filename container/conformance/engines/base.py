"""How copies of a container are started: what every engine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class Start:
    """How one copy is started. ``port`` is where it is told, or by default has, to listen."""

    environ: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ("serve",)
    port: int = DEFAULT_PORT
    user: str | None = None
    is_read_only: bool = False
    is_offline: bool = False


@dataclass(frozen=True, slots=True)
class ImageFacts:
    entrypoint: tuple[str, ...]
    labels: Mapping[str, str]


class Copy(Protocol):
    """A container, or a process in the place of one."""

    url: str

    def log(self) -> str: ...

    def exit_status(self) -> int | None:
        """None while it runs."""

    def terminate(self) -> None:
        """SIGTERM to its first process."""

    def command_lines(self) -> str:
        """What `ps` shows of its processes."""

    def ping_inside(self) -> int | None:
        """The status of /ping, asked from inside; None without an answer. Raises Skipped where nothing inside can ask."""

    def close(self) -> None:
        """Ends it at once and removes it."""


class Engine(Protocol):
    """``has_networks``: each copy has ports of its own. ``isolates``: users, file systems and networks can be chosen."""

    has_networks: bool
    isolates: bool

    def start(self, start: Start) -> Copy:
        """Raises HeadwayError if it can't be started."""

    def facts(self) -> ImageFacts | None:
        """None for what is no image."""

    def close(self) -> None:
        """After its last copy."""
