"""`headway chat`: a conversation, or one question."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console

from headway.server.remote.endpoint import Endpoint
from headway.server.terminal.lines import entered
from headway.server.terminal.printing import printable
from headway.server.terminal.stream import AnswerFailed, choices

_HINT = "/reset forgets the conversation, /system TEXT tells the model what to be."


class Conversation:
    """``fields`` are further fields of each request."""

    def __init__(self, endpoint: Endpoint, model: str, fields: dict[str, Any], system_prompt: str | None, screen: Console) -> None:
        self._endpoint = endpoint
        self._model = model
        self._fields = fields
        self._screen = screen
        self._system_prompt = system_prompt
        self._messages: list[dict[str, Any]] = []
        self._reset()

    def run(self, quick: str | None, typed: TextIO) -> int:
        """``quick`` alone, or what is typed. Raises AnswerFailed for ``quick``."""
        if quick is not None:
            self._ask(quick)
            return 0
        for text in entered(typed, self._screen, f"{self._model}: {_HINT}"):
            try:
                self._take(text)
            except AnswerFailed as error:
                self._screen.print(str(error), style="red", markup=False)
        return 0

    def _take(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if command == "/reset":
            self._reset()
        elif command == "/system":
            self._system_prompt = rest.strip() or None
            self._reset()
        elif command.startswith("/"):
            self._screen.print(f"There is no {command}. {_HINT}", style="red", markup=False)
        else:
            self._ask(text)

    def _reset(self) -> None:
        self._messages = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []

    def _ask(self, text: str) -> None:
        """Prints the answer as it comes and remembers both; what failed is not remembered. ctrl-C cuts an answer off."""
        asked = [*self._messages, {"role": "user", "content": text}]
        content, has_reasoning = "", False
        try:
            for choice in choices(self._endpoint, "/v1/chat/completions", {"model": self._model, "messages": asked, **self._fields}):
                delta = choice["delta"]
                if reasoning := delta.get("reasoning") or delta.get("reasoning_content"):
                    self._screen.out(printable(reasoning), style="dim", end="")
                    has_reasoning = True
                if piece := delta.get("content"):
                    self._screen.out("\n" * (has_reasoning and not content) + printable(piece), end="")
                    content += piece
        except KeyboardInterrupt:
            self._screen.out(" ...", end="")
        self._screen.out()
        self._messages = [*asked, {"role": "assistant", "content": content}]
