"""gpt-oss's harmony format: an answer is a row of messages, each on a channel, between special tokens.

    <|channel|>analysis<|message|>reasoning<|end|><|start|>assistant<|channel|>final<|message|>content<|return|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>arguments<|call|>

The format's own library, openai-harmony, can do nothing without a vocabulary that it downloads; the model's tokenizer has all that is
needed, so that this reads its special tokens itself. Text that only looks like one of them is text.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.output import OutputParser, Parsed, ToolCallPiece, joined
from headway.server.text.tokenizer import Tokenizer

_HEADER_MARKS = ("<|channel|>", "<|constrain|>")
_END_MARKS = ("<|end|>", "<|call|>", "<|return|>")
_MARKS = ("<|start|>", *_HEADER_MARKS, "<|message|>", *_END_MARKS)
_ANY_MARK = re.compile("|".join(map(re.escape, _MARKS)))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
# How a header may go on behind the "<|start|>assistant" that ends the prompt, but for a special token.
_HEADER_WORDS = ("assistant", "to=")
# Far longer than any known; beyond it the model has lost the format.
_MAX_HEADER = 1000
# Tools that gpt-oss knows and that are not the caller's functions: what is said to them is told as reasoning.
_BUILT_IN_TOOLS = ("browser", "container", "python")


class _Part(enum.Enum):
    HEADER = enum.auto()
    REASONING = enum.auto()
    CONTENT = enum.auto()
    CALL = enum.auto()


class HarmonyParser:
    """See OutputParser. Contents go to ``inner``; calls of functions are told here. Needs the text with its special tokens.

    Several messages of a kind are put together with a newline between them. An answer without the format is content, as it is under
    a grammar. ``is_open``: the prompt ends within the reasoning.
    """

    def __init__(self, inner: OutputParser, tokenizer: Tokenizer, *, is_open: bool) -> None:
        self._inner = inner
        self._spelling = _Spelling(tokenizer)
        self._part = _Part.REASONING if is_open else _Part.HEADER
        self._header = ""
        self._is_marked = False  # the header has a mark, so that it can't be anything else
        self._num_header_tokens = 0
        self._is_empty = True  # nothing was told of this message
        self._told: set[_Part] = set()  # of which something was told
        self._num_calls = 0

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        return joined(*[self._read(piece) for piece in self._spelling.push(text, token_ids)])

    def finish(self) -> Parsed:
        told = [self._read(piece) for piece in self._spelling.finish()]
        if self._part is _Part.HEADER and self._header.strip() and not self._is_marked:
            told.append(self._begin_text())
        return joined(*told, self._end_message(), self._inner.finish())

    def _read(self, piece: _Piece) -> Parsed:
        if piece.mark is None:
            return self._read_text(piece)
        if self._part is _Part.HEADER and piece.mark in _HEADER_MARKS:
            self._header += piece.mark
            self._is_marked = True
            self._num_header_tokens += 1
            return Parsed()
        if piece.mark == "<|message|>":
            return self._begin_message() if self._part is _Part.HEADER else self._read_text(_Piece(None, "", piece.token_ids))
        is_end = piece.mark in _END_MARKS
        told = self._end_message()
        told.num_reasoning_tokens += is_end and self._part is _Part.REASONING
        self._part = _Part.HEADER
        # Behind an end comes the next message's start.
        self._header, self._is_marked, self._num_header_tokens = ("", False, 0) if is_end else (piece.mark, True, 1)
        return told

    def _read_text(self, piece: _Piece) -> Parsed:
        match self._part:
            case _Part.HEADER:
                self._header += piece.text
                self._num_header_tokens += len(piece.token_ids)
                return Parsed() if self._may_be_header() else self._begin_text()
            case _Part.REASONING:
                return Parsed(reasoning=self._separated(piece.text), num_reasoning_tokens=len(piece.token_ids))
            case _Part.CONTENT:
                return self._inner.push(self._separated(piece.text), piece.token_ids)
            case _Part.CALL:
                self._is_empty = self._is_empty and not piece.text.strip()
                return Parsed(tool_calls=[ToolCallPiece(self._num_calls - 1, arguments=piece.text)] if piece.text else [])

    def _begin_message(self) -> Parsed:
        channel, recipient = _CHANNEL.search(self._header), _RECIPIENT.search(self._header)
        self._is_empty = True
        if recipient is not None and recipient[1].partition(".")[0] not in _BUILT_IN_TOOLS:
            self._part = _Part.CALL
            self._num_calls += 1
            return Parsed(tool_calls=[ToolCallPiece(self._num_calls - 1, recipient[1].removeprefix("functions."))])
        if recipient is not None or (channel is not None and channel[1] == "analysis"):
            self._part = _Part.REASONING
            return Parsed(num_reasoning_tokens=self._num_header_tokens + 1)
        self._part = _Part.CONTENT
        return Parsed()

    def _may_be_header(self) -> bool:
        text = self._header.lstrip()
        is_likely = self._is_marked or any(text.startswith(word) or word.startswith(text) for word in _HEADER_WORDS)
        return is_likely and len(self._header) <= _MAX_HEADER

    def _begin_text(self) -> Parsed:
        """What was taken for a header is content."""
        self._part, self._is_empty = _Part.CONTENT, True
        return self._inner.push(self._separated(_ANY_MARK.sub("", self._header)), ())

    def _end_message(self) -> Parsed:
        if self._part is _Part.CALL and self._is_empty:
            return Parsed(tool_calls=[ToolCallPiece(self._num_calls - 1, arguments="{}")])
        return Parsed()

    def _separated(self, text: str) -> str:
        if not text or not self._is_empty:
            return text
        self._is_empty = False
        before = "\n" if self._part in self._told else ""
        self._told.add(self._part)
        return before + text


@dataclass(frozen=True, slots=True)
class _Piece:
    """A mark: a special token of the format; or the text of other tokens."""

    mark: str | None
    text: str
    token_ids: Sequence[int]


class _Spelling:
    """Says which of an answer's text is a special token: text and tokens come at different times, and text may look like one.

    Decodes the tokens a second time for how many characters each has added.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._names = {token_id: mark for mark in _MARKS if (token_id := tokenizer.token_to_id(mark)) is not None}
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=False)
        self._tokens: deque[tuple[int, int]] = deque()  # id, number of characters; of those whose text has not come
        self._text = ""  # that is not enough for the next of them

    def push(self, text: str, token_ids: Sequence[int]) -> Iterator[_Piece]:
        self._text += text
        self._tokens += [(token_id, len(self._detokenizer.push([token_id]).text)) for token_id in token_ids]
        start = at = 0
        ids: list[int] = []
        while self._tokens and at + self._tokens[0][1] <= len(self._text):
            token_id, num_chars = self._tokens.popleft()
            at += num_chars
            name = self._names.get(token_id)
            if name is None:
                ids.append(token_id)
                continue
            # A character that never ended comes with the token that shows it.
            yield _Piece(None, self._text[start : at - len(name)], ids)
            yield _Piece(name, name, [token_id])
            start, ids = at, []
        yield _Piece(None, self._text[start:at], ids)
        self._text = self._text[at:]

    def finish(self) -> Iterator[_Piece]:
        """Text that a stop string cut, but not where it cut a special token; and the end of a character that never came."""
        cut = [token_id for token_id, _ in itertools.islice(self._tokens, 1)]
        if self._text and not (cut and cut[0] in self._names):
            yield _Piece(None, self._text, cut)
