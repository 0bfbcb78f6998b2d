"""Where the time of one start goes, by the phases that the server logs: bars of its two processes, in seconds from the process's start."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

API, ENGINE = "API process", "engine process"
OPTIONS = "Python and the options"

_PHASE = re.compile(r"phase (.+) (\d+\.\d+) s")
_WEIGHTS = re.compile(r" ([\d.]+) GiB of weights")
# The others follow one another: each begins when the one before ends.
_BESIDE = ("importing the HTTP server", "loading the tokenizer")
_FIRST = "getting the model"  # the API process's; those behind it are the engine's


@dataclass(frozen=True, slots=True)
class Bar:
    """One phase; seconds from the start of the first process."""

    process: str
    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class _Told:
    name: str
    seconds: float
    logged_s: float


def bars(lines: Sequence[str], started: float) -> list[Bar]:
    """From a JSON log up to the banner; ``started`` is time.time() at the process's start.

    A phase of the engine is logged when its message is read, which may be late: so these are laid end to end, from the end of the
    first, which the API process logs as it happens.
    """
    told = list(_told(lines, started))
    found = [Bar(API, one.name, one.logged_s - one.seconds, one.logged_s) for one in told if one.name in _BESIDE]
    chain = [one for one in told if one.name not in _BESIDE]
    if not chain or chain[0].name != _FIRST:
        raise ValueError("the log names no phases: it needs --log-format json and --log-level info")
    first = chain[0]
    at = first.logged_s
    found += [Bar(API, OPTIONS, 0.0, at - first.seconds), Bar(API, _FIRST, at - first.seconds, at)]
    for phase in chain[1:]:
        found.append(Bar(ENGINE, phase.name, at, at + phase.seconds))
        at += phase.seconds
    return sorted(found, key=lambda bar: bar.start_s)


def weight_bytes(lines: Iterable[str]) -> int:
    """What the banner says; its two decimals are 5 MB."""
    found = next(match for line in lines if (match := _WEIGHTS.search(line)))
    return round(float(found[1]) * 2**30)


def _told(lines: Iterable[str], started: float) -> Iterator[_Told]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a library's own
        if match := _PHASE.fullmatch(record["message"]):
            yield _Told(match[1], float(match[2]), datetime.fromisoformat(record["time"]).timestamp() - started)
