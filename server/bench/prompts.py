"""Prompts of a wanted length in tokens, made of common words, different from each other and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from tokenizers import Tokenizer

from headway.server.bench.errors import BenchError

# Common words are one token each, with the space before them, in most vocabularies: lengths add up.
_COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem hand part place "
    "case week company system program question work night point home water room mother area money story fact month lot right study "
    "book eye job word business issue side kind head house service friend father power hour game line end member law car city name "
    "team minute idea body back parent face level office door health person art war history party result change morning reason "
    "girl moment air teacher force foot boy age policy music market sense nation plan college interest death experience effect use "
    "class control field role effort rate heart drug show leader light voice wife police mind price report decision son view town "
    "road arm value building"
)
COMMON_WORDS = _COMMON.split()

_TRIES = 40  # replacements of the last words before a length is taken as it is
CountTokens = Callable[[str], int]


class PromptMaker:
    """Makes prompts of ``input_len`` tokens behind a shared text of ``prefix_len`` tokens, measured by ``count_tokens``."""

    def __init__(self, count_tokens: CountTokens, input_len: int, prefix_len: int, seed: int | str) -> None:
        self._count = count_tokens
        self._rng = random.Random(seed)
        self._total = prefix_len + input_len
        self._prefix = self._words(prefix_len) if prefix_len else []

    def prompts(self, count: int) -> list[str]:
        return [" ".join(self._fit(list(self._prefix), self._total)) for _ in range(count)]

    def _words(self, length: int) -> list[str]:
        return self._fit([], length)

    def _fit(self, head: list[str], length: int) -> list[str]:
        """``head`` and random words so that the whole has ``length`` tokens; off by a few only if no words fit."""
        words = head + self._rng.choices(COMMON_WORDS, k=max(1, length - len(head)))
        for _ in range(_TRIES):
            excess = self._count(" ".join(words)) - length
            if excess == 0:
                break
            if excess > 0:
                # Also when every word left is of the head: then the head alone is too long, and one word stays.
                del words[max(len(head) + 1, len(words) - excess) :]
                if self._count(" ".join(words)) > length:
                    words[-1] = self._rng.choice(COMMON_WORDS)
            else:
                words += self._rng.choices(COMMON_WORDS, k=-excess)
        return words


def tokenizer_counter(path: Path) -> CountTokens:
    """Counts as a server with this ``tokenizer.json`` would, special tokens included. Raises BenchError if it can't be read."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise BenchError(f"--tokenizer {path} is not a tokenizer.json that can be read: {error}") from error

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    return count


async def calibrated_counter(ask_server: Callable[[str], Awaitable[int]], seed: int) -> CountTokens:
    """Learns from the server's own counts what a word costs and what every prompt costs beside its words (BOS, a template).

    Lengths are then right on average; they are exact where each word is one token.
    """
    rng = random.Random(f"{seed} calibration")  # words of its own: a prompt that begins like these would be in the prefix cache
    few, many = 40, 240
    words = rng.choices(COMMON_WORDS, k=many)
    at_few, at_many = await ask_server(" ".join(words[:few])), await ask_server(" ".join(words))
    per_word = max((at_many - at_few) / (many - few), 0.01)
    overhead = at_few - per_word * few

    def count(text: str) -> int:
        return round(overhead + per_word * len(text.split()))

    return count
