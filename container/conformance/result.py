"""What came of a check."""

from __future__ import annotations

from dataclasses import dataclass

from headway.container.conformance.check import Check, Severity
from headway.container.conformance.outcome import Verdict


@dataclass(frozen=True, slots=True)
class Result:
    """``reason`` is empty where the check passed."""

    check: Check
    verdict: Verdict
    reason: str
    evidence: tuple[str, ...]
    duration_s: float

    @property
    def is_failure(self) -> bool:
        return self.verdict is Verdict.FAILED

    @property
    def is_fatal(self) -> bool:
        return self.is_failure and self.check.severity is Severity.MUST
