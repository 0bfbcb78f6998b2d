"""The best of several choices, where more were generated than are answered with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from headway.server.api.serving.choices import ChoiceDelta


def best_of(choices: Sequence[ChoiceDelta], num_drawn: int, n: int) -> list[ChoiceDelta]:
    """The ``n`` of the highest mean logprob of each prompt's ``num_drawn`` whole choices, best first, numbered anew.

    Of equal ones the first drawn comes first; with as many as were drawn the order stays.
    """
    if num_drawn == n:
        return list(choices)
    groups = (choices[start : start + num_drawn] for start in range(0, len(choices), num_drawn))
    best = [choice for group in groups for choice in sorted(group, key=_mean_logprob, reverse=True)[:n]]
    return [dataclasses.replace(choice, index=index) for index, choice in enumerate(best)]


def _mean_logprob(choice: ChoiceDelta) -> float:
    if not choice.logprobs:
        return -math.inf
    return math.fsum(at.logprob for at in choice.logprobs) / len(choice.logprobs)
