"""What a check gets: the server to ask, the copies it may start, and where it notes what it saw."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from headway.container.conformance.exchange import Exchange
from headway.container.conformance.outcome import Failed, NotApplicable, Skipped, require
from headway.container.conformance.shapes import Shape
from headway.container.conformance.starts import Starts
from headway.container.conformance.subject import Subject

JSON = {"content-type": "application/json"}
# A limit of time is broken only if it is in every round: one late answer may be this machine's doing.
_ROUNDS = 3


class Probe:
    """For one check: whatever is asked through it becomes evidence."""

    def __init__(self, subject: Subject | None, starts: Starts | None) -> None:
        self._subject, self._starts = subject, starts
        self.evidence: list[str] = []

    @property
    def subject(self) -> Subject:
        if self._subject is None:
            raise Skipped("there is no server to ask: the container did not become ready")
        return self._subject

    @property
    def starts(self) -> Starts:
        assert self._starts is not None, "a check that starts copies is run with an image only"
        return self._starts

    @property
    def has_starts(self) -> bool:
        return self._starts is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not stand in evidence."""
        return (*(self._subject.secrets if self._subject else ()), *(self._starts.secrets if self._starts else ()))

    def note(self, text: str) -> None:
        self.evidence.append(text)

    def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        with_key: bool = True,
        timeout_s: float | None = None,
    ) -> Exchange:
        """Raises Failed where there is no answer."""
        answer = self.subject.ask(method, path, content, headers or {}, with_key=with_key, timeout_s=timeout_s)
        self.note(answer.evidence)
        return answer

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None, *, with_key: bool = True) -> Exchange:
        return self.ask("POST", path, json.dumps(body).encode(), {**JSON, **(headers or {})}, with_key=with_key)

    def invoke(self, body: Any = None, headers: Mapping[str, str] | None = None) -> Exchange:
        """POST /invocations, with the small request that the model takes if no other is given."""
        return self.post("/invocations", self.shape.body if body is None else body, headers)

    @property
    def shape(self) -> Shape:
        """Raises Skipped where /invocations answers nothing that we know."""
        if self.subject.shape is None:
            raise Skipped("no request was found that /invocations answers (see invocations.answers; --body FILE gives one)")
        return self.subject.shape

    def generating_shape(self) -> Shape:
        """Raises NotApplicable for a model that writes no text."""
        if not self.shape.generates:
            raise NotApplicable(f"the model answers no chat and no prompt, only {self.shape.kind} requests")
        return self.shape

    def within(self, limit_s: float, what: str, measure: Callable[[], list[float]]) -> None:
        """Requires all the seconds of one round to be below the limit; rounds are repeated, lest a busy machine is blamed on the server."""
        for number in range(1, _ROUNDS + 1):
            seconds = measure()
            self.note(f"{what}, round {number}: {len(seconds)} measured, slowest {max(seconds):.3f} s")
            if max(seconds) < limit_s:
                return
        raise Failed(f"{what} takes longer than {limit_s:g} s in {_ROUNDS} rounds of {_ROUNDS}")

    def poll(self, condition: Callable[[], bool], patience_s: float, otherwise: str) -> None:
        """Raises Failed with ``otherwise`` when the condition does not come true in time."""
        deadline = time.monotonic() + patience_s
        while not condition():
            require(time.monotonic() < deadline, otherwise)
            time.sleep(0.05)
