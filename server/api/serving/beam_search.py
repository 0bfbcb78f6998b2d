"""Beam search for one prompt: the most likely sequences, found by continuing the best few of each length. An algorithm, no engine.

It follows transformers' (early_stopping "never"): of all continuations of the live beams the best ``width`` that do not end live on,
and those of the best ``width`` that do end are kept, scored by ``sum of logprobs / length ** length_penalty``, the ending token
included. The search is over once no live beam can get a better score than the worst of ``width`` kept ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headway.server.types import TokenLogprobs


@dataclass(frozen=True, slots=True)
class BeamRules:
    """``ends`` are the tokens that end a sequence, once more than ``min_tokens`` tokens exist with them."""

    width: int
    length_penalty: float
    max_tokens: int
    min_tokens: int
    ends: frozenset[int]

    @property
    def num_candidates(self) -> int:
        """How many of a beam's most likely tokens ``advance`` wants to see: beside every end there are ``width`` others, then."""
        return self.width + len(self.ends)


@dataclass(frozen=True, slots=True)
class Beam:
    """A sequence, as its last token and what it continues; ``parent`` None: the prompt."""

    parent: Beam | None
    at: TokenLogprobs | None
    logprob: float  # of the sequence
    length: int

    def path(self) -> list[TokenLogprobs]:
        """Its tokens, in order."""
        tokens = []
        beam: Beam | None = self
        while beam is not None:
            if beam.at is not None:
                tokens.append(beam.at)
            beam = beam.parent
        return tokens[::-1]


class BeamSearch:
    """``live`` beams are to be continued by ``advance``, until there are none; ``found`` then holds the best sequences, best first."""

    def __init__(self, rules: BeamRules) -> None:
        self._rules = rules
        self._scored: list[tuple[float, Beam]] = []
        self.live = [Beam(None, None, 0.0, 0)]

    @property
    def found(self) -> list[Beam]:
        return [beam for _, beam in self._scored]

    def advance(self, next_tokens: Sequence[TokenLogprobs]) -> None:
        """``next_tokens``, parallel to ``live``: the most likely next tokens of each beam as its ``top``."""
        width, is_last = self._rules.width, self.live[0].length + 1 >= self._rules.max_tokens
        continued = [self._continuations(beam, step) for beam, step in zip(self.live, next_tokens, strict=True)]
        self.live = []
        for place, beam in enumerate(heapq.merge(*continued, key=lambda beam: -beam.logprob)):
            if place >= width and (is_last or len(self.live) == width):
                break
            if not self._ends(beam):
                self.live.append(beam)
            elif place < width:  # one that is beaten by ``width`` others at once is no candidate for the answer
                self._scored.append((self._score(beam.logprob, beam.length), beam))
        self._scored = sorted(self._scored, key=lambda item: -item[0])[:width]
        if not self._can_improve():
            self.live = []

    def _continuations(self, beam: Beam, step: TokenLogprobs) -> Iterator[Beam]:
        """Most likely first."""
        for rank, (token_id, logprob) in enumerate(step.top, 1):
            if token_id not in self._rules.ends or beam.length + 1 > self._rules.min_tokens:
                yield Beam(beam, TokenLogprobs(token_id, logprob, rank, step.top), beam.logprob + logprob, beam.length + 1)

    def _ends(self, beam: Beam) -> bool:
        return beam.length >= self._rules.max_tokens or (beam.at is not None and beam.at.token_id in self._rules.ends)

    def _score(self, logprob: float, length: int) -> float:
        divisor: float = length**self._rules.length_penalty
        return logprob / divisor

    def _can_improve(self) -> bool:
        if not self.live or len(self._scored) < self._rules.width:
            return bool(self.live)
        # Logprobs only fall; a positive penalty favours long sequences, so the longest is the best that can still come.
        length = self._rules.max_tokens if self._rules.length_penalty > 0 else self.live[0].length
        return self._score(self.live[0].logprob, length) > self._scored[-1][0]
