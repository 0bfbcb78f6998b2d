"""Runs an output parser over an answer cut into pieces, and puts together what it tells."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headway.server.text.output import OutputParser, Parsed


@dataclass(frozen=True)
class Told:
    """What a parser told of a whole answer. ``calls``: (name, arguments) in order."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...] = ()
    num_reasoning_tokens: int = 0


def told(parser: OutputParser, pieces: Iterable[tuple[str, Sequence[int]]]) -> Told:
    """Checks on the way that calls come in order, each with its name first and once."""
    parsed = [parser.push(text, token_ids) for text, token_ids in pieces]
    return put_together([*parsed, parser.finish()])


def put_together(parsed: Iterable[Parsed]) -> Told:
    reasoning, content, num_reasoning_tokens = "", "", 0
    calls: list[tuple[str, str]] = []
    for piece in parsed:
        reasoning += piece.reasoning
        content += piece.content
        num_reasoning_tokens += piece.num_reasoning_tokens
        for call in piece.tool_calls:
            if call.name is not None:
                assert call.index == len(calls), "a call begins once, in order"
                calls.append((call.name, call.arguments))
            else:
                name, arguments = calls[call.index]
                calls[call.index] = (name, arguments + call.arguments)
    return Told(reasoning, content, tuple(calls), num_reasoning_tokens)


def cut(text: str, at: Iterable[int]) -> list[tuple[str, Sequence[int]]]:
    """``text`` in pieces, cut at these places, without token ids."""
    places = [0, *sorted(at), len(text)]
    return [(text[start:end], ()) for start, end in itertools.pairwise(places)]


def every_cut(text: str) -> list[list[tuple[str, Sequence[int]]]]:
    """In one piece, in two at every character, and character by character."""
    return [cut(text, []), *(cut(text, [at]) for at in range(1, len(text))), cut(text, range(1, len(text)))]
