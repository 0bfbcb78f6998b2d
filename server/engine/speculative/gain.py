"""Whether a draft is worth its place in a step: from measured acceptance and from what wider steps took."""

from __future__ import annotations

from dataclasses import dataclass

_KEPT_TRIES = 0.8  # share of what a request's drafts showed that counts after the next step with some: the last five steps or so
_KEPT_IDLE = 0.98  # the same after a step in which drafts were not worth it, so that they are tried again
_PRIOR = 0.5  # chance of a draft of which nothing is known, weighing as much as one try
_KEPT_STEPS = 0.98  # the last fifty steps or so
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
    """Seconds of a step as ``fixed + per_token * tokens``: least squares over the last steps that computed no prompt."""

    def __init__(self) -> None:
        self.fixed = 0.0
        self.per_token = 0.0
        self._weight = self._sum_n = self._sum_nn = self._sum_t = self._sum_nt = 0.0

    def learn(self, num_tokens: int, seconds: float) -> None:
        if seconds <= 0.0:
            return
        expected = self.fixed + self.per_token * num_tokens
        n, t = float(num_tokens), min(seconds, _OUTLIER * expected) if expected > 0.0 else seconds
        keep = _KEPT_STEPS
        self._weight = self._weight * keep + 1.0
        self._sum_n, self._sum_nn = self._sum_n * keep + n, self._sum_nn * keep + n * n
        self._sum_t, self._sum_nt = self._sum_t * keep + t, self._sum_nt * keep + n * t
        mean_t, mean_n = self._sum_t / self._weight, self._sum_n / self._weight
        spread = self._sum_nn / self._weight - mean_n**2
        slope = (self._sum_nt / self._weight - mean_n * mean_t) / (spread + _LEAST_SPREAD)
        self.per_token = min(max(slope, 0.0), mean_t / mean_n)  # and the fixed part is not below nothing either
        self.fixed = mean_t - self.per_token * mean_n


class Gain:
    """The rule: a draft is verified if a step is then expected to bring more tokens a second."""

    def __init__(self, costs: StepCosts, num_tokens: int, num_new_tokens: int) -> None:
        """A step without drafts computes ``num_tokens`` and brings ``num_new_tokens``."""
        self._per_token = costs.per_token
        self._seconds = costs.fixed + costs.per_token * num_tokens
        self._num_new = float(num_new_tokens)

    def is_worth(self, likely: float) -> bool:
        """Of one more draft that is right with this probability."""
        return likely * self._seconds >= self._per_token * self._num_new

    def take(self, chance: float, most: int) -> int:
        """How many drafts of a request, each right with ``chance`` if those before it are, join the step."""
        likely, num_drafts = chance, 0
        while num_drafts < most and self.is_worth(likely):
            self._num_new += likely
            self._seconds += self._per_token
            likely *= chance
            num_drafts += 1
        return num_drafts
