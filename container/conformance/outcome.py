"""How a check ends, and how what it saw is shown: bounded, printable, without secrets."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from headway.server.words import cut

_MAX_LINES = 12
_MAX_LINE = 300


class Verdict(StrEnum):
    PASSED = "pass"
    FAILED = "fail"
    NOT_APPLICABLE = "not applicable"
    SKIPPED = "skipped"


class CheckEnded(Exception):
    """Raised by a check that does not pass; ``str()`` is the reason."""

    verdict: ClassVar[Verdict]


class Failed(CheckEnded):
    """The container breaks the clause."""

    verdict = Verdict.FAILED


class NotApplicable(CheckEnded):
    """The container, the model or the way it was started has nothing that the clause is about."""

    verdict = Verdict.NOT_APPLICABLE


class Skipped(CheckEnded):
    """Could not be tried here, through no fault of the container."""

    verdict = Verdict.SKIPPED


def require(condition: object, otherwise: str) -> None:
    """Raises Failed with ``otherwise`` unless the condition holds."""
    if not condition:
        raise Failed(otherwise)


def shown(text: str, secrets: Sequence[str] = ()) -> str:
    """``text`` as one printable line of bounded length. What a server sends may hold escape sequences, or the key that it was sent."""
    for secret in secrets:
        text = text.replace(secret, "***")
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text)
    return cut(line, _MAX_LINE)


def shown_lines(lines: Sequence[str], secrets: Sequence[str] = ()) -> tuple[str, ...]:
    """The first of many lines, and how many there are beside them."""
    kept = [shown(line, secrets) for line in lines[:_MAX_LINES]]
    return (*kept, *([f"... and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []))
