"""What a model's text says: reasoning, content and calls of tools, told piece by piece as it comes.

The words that parsers and the API share; the parsers themselves are in ``text/reasoning/``, ``text/tools/`` and ``text/harmony.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True)
class ToolCallPiece:
    """What is new of one call. The first piece of a call, and only that, has ``name``; the ``arguments`` of all pieces, put together,
    are the call's arguments: a JSON object's text."""

    index: int  # of the call in its answer, from 0
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Parsed:
    """What is new. ``num_reasoning_tokens`` counts those of the tokens given that belong to the reasoning, marks included."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCallPiece] = field(default_factory=list)
    num_reasoning_tokens: int = 0


def joined(*parts: Parsed) -> Parsed:
    """All that ``parts`` tell, in order."""
    return Parsed(
        "".join(part.reasoning for part in parts),
        "".join(part.content for part in parts),
        [call for part in parts for call in part.tool_calls],
        sum(part.num_reasoning_tokens for part in parts),
    )


class OutputParser(Protocol):
    """Reads one choice. What it tells, put together, is the same however the text was split."""

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        """``text`` is what ``token_ids`` added; it may lag behind them by a few characters, and be empty."""
        ...

    def finish(self) -> Parsed:
        """What was held back, once, at the end of the answer. Text that turned out to be no call is content: nothing is lost."""
        ...


class PlainParser:
    """See OutputParser: all is content."""

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        return Parsed(content=text)

    def finish(self) -> Parsed:
        return Parsed()
