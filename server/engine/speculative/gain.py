"""How many drafts are worth their places in a step: from measured acceptance and from what steps of each width took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_KEPT_TRIES = 0.8  # share of what a request's drafts showed that counts after the next step with some: the last five steps or so
_KEPT_IDLE = 0.98  # the same after a step in which drafts were not worth it, so that they are tried again
_PRIOR = 0.5  # chance of a draft of which nothing is known, weighing as much as one try
_KEPT_STEPS = 0.98  # the last fifty steps or so; a width that was not seen for some hundreds is unknown again, and tried
_LINE_WEIGHT = 0.5  # of the line beside the mean of a width, in steps
# In tokens squared: where all steps were about as wide, their slope is noise, and fades; with it what keeps drafts from being tried again.
_LEAST_SPREAD = 0.5
_OUTLIER = 3.0  # a step that took so many times what was expected was held up by something else


@dataclass(slots=True)
class Acceptance:
    """How a request's drafts have done lately."""

    hits: float = 0.0
    tries: float = 0.0

    @property
    def chance(self) -> float:
        """That the next draft is right, if those before it are."""
        return (self.hits + _PRIOR) / (self.tries + 1.0)

    def learn(self, num_drafts: int, num_accepted: int) -> None:
        """Those behind the first wrong one show nothing."""
        self.hits = self.hits * _KEPT_TRIES + num_accepted
        self.tries = self.tries * _KEPT_TRIES + num_accepted + (num_accepted < num_drafts)

    def fade(self) -> None:
        self.hits *= _KEPT_IDLE
        self.tries *= _KEPT_IDLE


class StepCosts:
    """Seconds of a step by its width in tokens, from the last steps that computed no prompt.

    A line through all of them by least squares, and beside it the mean of each width that was seen lately: a kernel that takes eight rows
    at a time, or a graph for sixteen, makes stairs of the line.
    """

    def __init__(self) -> None:
        self._fixed = self._per_token = 0.0
        self._weight = self._sum_n = self._sum_nn = self._sum_t = self._sum_nt = 0.0
        self._num_steps = 0
        self._of_width: dict[int, _Mean] = {}

    def seconds(self, num_tokens: int) -> float:
        line = self._fixed + self._per_token * num_tokens
        seen = self._of_width.get(num_tokens)
        if seen is None:
            return line
        weight = seen.weight * _KEPT_STEPS ** (self._num_steps - seen.at_step)
        return (weight * seen.value + _LINE_WEIGHT * line) / (weight + _LINE_WEIGHT)

    def learn(self, num_tokens: int, seconds: float) -> None:
        if seconds <= 0.0:
            return
        expected = self.seconds(num_tokens)
        n, t = float(num_tokens), min(seconds, _OUTLIER * expected) if expected > 0.0 else seconds
        keep = _KEPT_STEPS
        self._weight = self._weight * keep + 1.0
        self._sum_n, self._sum_nn = self._sum_n * keep + n, self._sum_nn * keep + n * n
        self._sum_t, self._sum_nt = self._sum_t * keep + t, self._sum_nt * keep + n * t
        mean_t, mean_n = self._sum_t / self._weight, self._sum_n / self._weight
        spread = self._sum_nn / self._weight - mean_n**2
        slope = (self._sum_nt / self._weight - mean_n * mean_t) / (spread + _LEAST_SPREAD)
        self._per_token = min(max(slope, 0.0), mean_t / mean_n)  # and the fixed part is not below nothing either
        self._fixed = mean_t - self._per_token * mean_n
        self._num_steps += 1
        self._of_width.setdefault(num_tokens, _Mean()).learn(t, self._num_steps)


@dataclass(slots=True)
class _Mean:
    """Of what steps of one width took lately."""

    value: float = 0.0
    weight: float = 0.0
    at_step: int = 0

    def learn(self, seconds: float, at_step: int) -> None:
        kept = self.weight * _KEPT_STEPS ** (at_step - self.at_step)
        self.weight, self.at_step = kept + 1.0, at_step
        self.value = (self.value * kept + seconds) / self.weight


def worthwhile(costs: StepCosts, num_tokens: int, num_new_tokens: int, offers: Sequence[Offer], budget: int) -> list[int]:
    """How many drafts of each offer join a step that computes ``num_tokens`` without any and brings ``num_new_tokens``: as many, of those
    that are likeliest to be right, as let it bring the most tokens a second. At most ``budget`` of all."""
    likely = sorted(((offer.chance**position, place) for place, offer in enumerate(offers) for position in offer.positions), reverse=True)
    taken = [0] * len(offers)
    new, best, best_rate = float(num_new_tokens), 0, _rate(num_new_tokens, costs.seconds(num_tokens))
    for number, (chance, _) in enumerate(likely[:budget], start=1):
        new += chance
        rate = _rate(new, costs.seconds(num_tokens + number))
        if rate > best_rate:
            best, best_rate = number, rate
    for _, place in likely[:best]:  # those of an offer are likelier the sooner they come, so what is taken of it is its beginning
        taken[place] += 1
    return taken


@dataclass(frozen=True, slots=True)
class Offer:
    """Drafts of a request, each right with ``chance`` if those before it are."""

    chance: float
    num_drafts: int

    @property
    def positions(self) -> range:
        return range(1, self.num_drafts + 1)


def _rate(num_tokens: float, seconds: float) -> float:
    """Before anything is known of steps, all of them are alike."""
    return num_tokens / seconds if seconds > 0.0 else num_tokens
