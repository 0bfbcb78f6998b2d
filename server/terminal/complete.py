"""`headway complete`: continues the text that is typed, line by line, or given at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console

from headway.server.remote.endpoint import Endpoint
from headway.server.terminal.lines import entered
from headway.server.terminal.printing import printable
from headway.server.terminal.stream import AnswerFailed, choices


def complete(endpoint: Endpoint, model: str, fields: dict[str, Any], quick: str | None, typed: TextIO, screen: Console) -> int:
    """Raises AnswerFailed for ``quick``; what else fails is told, and the next text awaited."""
    prompts: Iterator[str] = iter([quick]) if quick is not None else entered(typed, screen, f"{model}: type a text to be continued.")
    for prompt in prompts:
        try:
            for choice in choices(endpoint, "/v1/completions", {"model": model, "prompt": prompt, **fields}):
                screen.out(printable(choice["text"]), end="")
            screen.out()
        except AnswerFailed as error:
            if quick is not None:
                raise
            screen.print(str(error), style="red", markup=False)
        except KeyboardInterrupt:  # of the answer; at the prompt it ends the command
            screen.out(" ...")
    return 0
