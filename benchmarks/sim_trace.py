"""Requests to replay: of a public trace, or made in its shape.

The form is that of the traces that came with Mooncake (Qin et al., FAST 2025): a JSON object a line with ``timestamp`` (ms),
``input_length``, ``output_length`` and ``hash_ids``, one for each block of 512 prompt tokens; equal ids, equal blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, islice
from pathlib import Path

import msgspec

BLOCK_TOKENS = 512
# Of the mean time between turns. Of the turns of conversations a hundredth comes later.
_RUN_UP = 8


class TracedRequest(msgspec.Struct, frozen=True):
    timestamp: float  # ms
    input_length: int
    output_length: int
    hash_ids: list[int]

    def tokens(self) -> list[int]:
        """Those of a block are all alike: what is looked at is only which blocks are equal."""
        tokens: list[int] = []
        for block in self.hash_ids:
            tokens += [block] * BLOCK_TOKENS
        del tokens[self.input_length :]
        return tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """What conversations are made of. Rates are per second, lengths in tokens.

    They begin in bursts (gaps of a gamma distribution: ``burstiness`` is the variance over the mean, 1 for Poisson), belong to one of
    ``num_apps`` applications (of Zipf's popularity) whose system prompt opens them, and take a few turns, each with all of the ones before.
    """

    num_apps: int = 200
    system_tokens: int = 4096
    question_tokens: int = 300
    answer_tokens: int = 150
    mean_turns: float = 3.0
    think_s: float = 20.0
    burstiness: float = 4.0


def make_trace(shape: Shape, requests_per_s: float, num_requests: int, seed: int) -> Iterator[TracedRequest]:
    """In the order of their arrival, from 0 s on. Lengths are of exponential distributions, cut to whole blocks as the form needs it."""
    return islice((request for request in _endless(shape, requests_per_s, seed) if request.timestamp >= 0), num_requests)


def _endless(shape: Shape, requests_per_s: float, seed: int) -> Iterator[TracedRequest]:
    """Conversations begin so long before 0 s that later turns come as often from then on as they ever will."""
    rng = random.Random(seed)
    apps = range(shape.num_apps)
    popularity = list(accumulate(1.0 / (rank + 1) for rank in apps))
    # The mean of the whole numbers that the turns are drawn as, and of the gaps between conversations.
    mean_turns = 1 + 1 / math.expm1(1 / (shape.mean_turns - 0.5))
    mean_gap = mean_turns / requests_per_s
    num_system_blocks = _blocks(shape.system_tokens)
    num_blocks = shape.num_apps * num_system_blocks  # ids below are of system prompts
    arrivals: list[tuple[float, int, list[int], int]] = []  # time, order, blocks before the turn, turns left
    clock, order = -_RUN_UP * shape.think_s, 0
    while True:
        while not arrivals or clock <= arrivals[0][0]:
            first = rng.choices(apps, cum_weights=popularity)[0] * num_system_blocks
            turns = 1 + int(rng.expovariate(1.0) * (shape.mean_turns - 0.5))
            heappush(arrivals, (clock, order, list(range(first, first + num_system_blocks)), turns))
            order += 1
            clock += rng.gammavariate(1 / shape.burstiness, mean_gap * shape.burstiness)
        arrival, _, blocks, turns = heappop(arrivals)
        asked = _blocks(rng.expovariate(1 / shape.question_tokens))
        blocks = [*blocks, *range(num_blocks, num_blocks + asked)]
        num_blocks += asked
        answer = 1 + int(rng.expovariate(1 / shape.answer_tokens))
        yield TracedRequest(arrival * 1000, len(blocks) * BLOCK_TOKENS, answer, blocks)
        if turns > 1:
            heappush(arrivals, (arrival + rng.expovariate(1 / shape.think_s), order, blocks, turns - 1))
            order += 1


def read_trace(path: Path, speed: float) -> Iterator[TracedRequest]:
    """``speed``: how many times as fast as it was recorded. Raises OSError, and msgspec.ValidationError for another form."""
    decode = msgspec.json.Decoder(TracedRequest).decode
    with path.open("rb") as lines:
        for line in lines:
            request = decode(line)
            yield msgspec.structs.replace(request, timestamp=request.timestamp / speed)


def _blocks(num_tokens: float) -> int:
    return max(1, round(num_tokens / BLOCK_TOKENS))
