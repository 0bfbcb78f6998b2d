"""What all parsers of calls share: an OutputParser that drives a reading, and the writer that the reading tells its findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headway.server.text.output import Parsed, ToolCallPiece
from headway.server.text.tools.reader import Broken, Reader, Steps

# A request's tools as the OpenAI API has them: {"type": "function", "function": {"name": .., "parameters": ..}}.
Tools = Sequence[Mapping[str, Any]]


class Writer:
    """What was found in one answer and not yet handed on.

    White space beside a call is no content, as templates put it back on their own. So it is held until other text follows, which
    then stands behind the space before the calls, or else that behind them.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self._content: list[str] = []
        self._pieces: list[ToolCallPiece] = []
        self._arguments: list[str] = []  # of the call that was begun last; in pieces, as adding up text copies it
        self._has_content = False
        self._space: list[str] = []  # held, behind the content
        self._space_behind_call: list[str] | None = None  # held, if a call came since the content

    @property
    def is_at_line_start(self) -> bool:
        """Whether nothing but white space stands on the line so far; a call ends a line too."""
        return not self._has_content or self._space_behind_call is not None or any("\n" in space for space in self._space)

    def content(self, text: str) -> None:
        words = text.rstrip()
        if words and self._space_behind_call is not None:
            unspaced = words.lstrip()
            self._space_behind_call.append(words[: len(words) - len(unspaced)])
            words = unspaced
            self._space, self._space_behind_call = self._space or self._space_behind_call, None
        if words:
            if self._has_content or not self.num_calls:
                self._content += self._space
            self._content.append(words)
            self._has_content = True
            self._space = []
        held = self._space if self._space_behind_call is None else self._space_behind_call
        if space := text[len(text.rstrip()) :]:
            held.append(space)

    def begin_call(self, name: str) -> None:
        self._join_arguments()
        self._pieces.append(ToolCallPiece(self.num_calls, name))
        self.num_calls += 1
        self._space_behind_call = []

    def add_arguments(self, text: str) -> None:
        """More of the arguments of the call that was begun last."""
        self._arguments.append(text)

    def end(self) -> None:
        if not self.num_calls:
            self._content += self._space

    def handed_on(self) -> Parsed:
        """All that is new since the last time."""
        self._join_arguments()
        parsed = Parsed(content="".join(self._content), tool_calls=self._pieces)
        self._content, self._pieces = [], []
        return parsed

    def _join_arguments(self) -> None:
        if not self._arguments:
            return
        if not self._pieces:
            self._pieces.append(ToolCallPiece(self.num_calls - 1))
        self._pieces[-1].arguments = "".join(self._arguments)
        self._arguments = []


# Reads an answer to its end.
Reading = Callable[[Reader, Writer], Steps[None]]


class ToolParser:
    """See OutputParser: finds calls as ``reading`` does, which never raises, whatever the text."""

    def __init__(self, reading: Reading) -> None:
        self._reader = Reader()
        self._writer = Writer()
        self._steps = reading(self._reader, self._writer)

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        if text:
            self._reader.feed(text)
            next(self._steps, None)
        return self._writer.handed_on()

    def finish(self) -> Parsed:
        self._reader.end()
        next(self._steps, None)
        self._writer.end()
        return self._writer.handed_on()


def attempt(reader: Reader, writer: Writer, reading: Steps[None], *, drops_cut: bool = False) -> Steps[bool]:
    """Whether ``reading`` went through. If it raises Broken, what it took since the last ``Reader.record`` becomes content again.

    ``drops_cut``: not where it broke off because the text was over, the beginning of a call that was cut off.
    """
    reader.record()
    try:
        yield from reading
    except Broken:
        taken = reader.recorded()
        if not (drops_cut and reader.is_over):
            writer.content(taken)
        return False
    return True
