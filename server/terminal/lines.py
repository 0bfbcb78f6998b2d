"""Lines that somebody types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from headway.server.terminal.printing import printable


def entered(typed: TextIO, screen: Console, hint: str) -> Iterator[str]:
    """Each line with a text, until the end of the input (ctrl-D) or ctrl-C. At a terminal with history and editing."""
    if not typed.isatty():
        yield from (text for line in typed if (text := line.rstrip("\n")).strip())
        return
    import readline  # noqa: F401 - makes input() edit lines

    screen.print(f"{printable(hint)} End with ctrl-D.", style="dim", markup=False)
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            screen.out()
            return
        if text.strip():
            yield text
