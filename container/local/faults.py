"""`--faults`: what goes wrong out there, on purpose, as often as asked and in the same order for the same seed."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from headway.server.errors import ConfigError

# What a fault is, as `headway local --help` lists it. Those of _LASTING take a duration: how long, and after @ how often.
FAULTS = {
    "throttle": "a call is refused with ThrottlingException",
    "5xx": "a call is refused with InternalFailure or ServiceUnavailable",
    "drop": "a call's connection is closed without an answer",
    "delay": "a call waits so long before it is looked at",
    "split": "a stream's parts are cut at random places",
    "death": "the copy that takes a call is killed",
    "slow-ping": "a ping is answered so much later",
}
_LASTING = ("delay", "slow-ping")
_MAX_SECONDS = 3600.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Fault:
    probability: float
    seconds: float = 0.0


class Faults:
    """Each kind draws from a sequence of its own, so that how often one is asked changes nothing for the others."""

    def __init__(self, faults: Mapping[str, _Fault] | None = None, seed: int = 0) -> None:
        self._faults = dict(faults or {})
        self._draws = {name: random.Random(f"{seed}/{name}") for name in FAULTS}

    def __contains__(self, name: str) -> bool:
        return name in self._faults

    def throttles(self) -> bool:
        return self._happens("throttle")

    def refusal(self) -> str | None:
        """The code with which this call fails inside of the platform."""
        return self._draws["5xx"].choice(("InternalFailure", "ServiceUnavailable")) if self._happens("5xx") else None

    def drops(self) -> bool:
        return self._happens("drop")

    def delay_s(self) -> float:
        """How long this call waits; 0.0 mostly."""
        return self._seconds("delay")

    def splits(self) -> bool:
        """Whether this stream's parts are cut with ``cut``."""
        return self._happens("split")

    def cut(self, part: bytes) -> list[bytes]:
        """``part`` in two at a random place, as it is if it has no room for one."""
        if len(part) < 2:
            return [part]
        place = self._draws["split"].randrange(1, len(part))
        return [part[:place], part[place:]]

    def kills(self) -> bool:
        """Whether the copy that takes this call dies of it."""
        return self._happens("death")

    def ping_delay_s(self) -> float:
        """How much later this ping's answer comes; it counts against the ping's time limit."""
        return self._seconds("slow-ping")

    def _happens(self, name: str) -> bool:
        fault = self._faults.get(name)
        return fault is not None and self._draws[name].random() < fault.probability

    def _seconds(self, name: str) -> float:
        return self._faults[name].seconds if self._happens(name) else 0.0


def read_faults(text: str) -> Faults:
    """`throttle=0.1,death=0.01,slow-ping=3s,delay=200ms@0.5,seed=7`. Raises ConfigError with every problem."""
    problems: list[str] = []
    faults: dict[str, _Fault] = {}
    seed = 0
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = word.partition("=")
        try:
            if name in faults:
                raise ValueError(f"{name} stands there twice")
            if name == "seed":
                seed = _seed(value)
            else:
                faults[name] = _fault(name, value)
        except ValueError as error:
            problems.append(f"--faults: {error}")
    if problems:
        raise ConfigError(problems)
    return Faults(faults, seed)


def _fault(name: str, value: str) -> _Fault:
    if name not in FAULTS:
        near = difflib.get_close_matches(name, (*FAULTS, "seed"), n=1)
        raise ValueError(f"{name!r} is no fault; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(FAULTS)}")
    if name not in _LASTING:
        return _Fault(_probability(name, value))
    duration, at, often = value.partition("@")
    return _Fault(_probability(name, often) if at else 1.0, _duration(name, duration))


def _probability(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text) or float(text) > 1:
        raise ValueError(f"{name} takes how often it happens, from 0 to 1, as {name}={'3s@' if name in _LASTING else ''}0.1; got {text!r}")
    return float(text)


def _duration(name: str, text: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else None
    if seconds is None or seconds > _MAX_SECONDS:
        raise ValueError(f"{name} takes a duration of up to {_MAX_SECONDS:.0f}s, as {name}=3s or {name}=200ms@0.5; got {text!r}")
    return seconds


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ValueError(f"seed takes a whole number, as seed=7; got {text!r}")
    return int(text)
