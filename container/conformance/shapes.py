"""Which requests the model behind /invocations takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.server.errors import ConfigError

_TEXT = "Count from one to ten in words."
# Ordered: a chat model takes a prompt too, and whatever takes neither may make vectors.
_BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": 8},
    "completion": {"prompt": _TEXT, "max_tokens": 8},
    "embedding": {"input": _TEXT},
}


@dataclass(frozen=True, slots=True)
class Shape:
    """``body`` is a small request; ``kind`` is chat, completion, embedding, or other for the user's own body."""

    kind: str
    body: dict[str, Any]

    @property
    def generates(self) -> bool:
        return self.kind in ("chat", "completion")

    def longer(self, num_tokens: int) -> dict[str, Any]:
        """The request with a longer answer, where there is such a thing."""
        return {**self.body, "max_tokens": num_tokens} if self.generates else self.body

    def streamed(self, num_tokens: int) -> dict[str, Any]:
        return {**self.longer(num_tokens), "stream": True}

    def with_wrong_types(self) -> dict[str, Any]:
        field = next(name for name in ("messages", "prompt", "input", *self.body) if name in self.body)
        return {**self.body, field: {"not": ["what", {"is": "expected"}]}}


def known_shapes(model: str | None) -> list[Shape]:
    """In the order in which they are tried, with the model's name where the server wants one."""
    named = {} if model is None else {"model": model}
    return [Shape(kind, {**body, **named}) for kind, body in _BODIES.items()]


def shape_of_file(path: Path) -> Shape:
    """Of a request that the user gives. Raises ConfigError."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"--body {path} can't be read: {getattr(error, 'strerror', None) or f'it is no JSON ({error})'}"]) from error
    if not isinstance(body, dict) or not body:
        raise ConfigError([f"--body {path} must hold a JSON object with at least one field"])
    kind = "chat" if "messages" in body else "completion" if "prompt" in body else "embedding" if "input" in body else "other"
    return Shape(kind, body)
