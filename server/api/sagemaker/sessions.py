"""Stateful sessions: which are open, until when, and what a custom handler keeps in them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headway.server.api.errors import SessionFailed
from headway.server.errors import RequestError

SESSION_ID = "x-amzn-sagemaker-session-id"
NEW_SESSION = "NEW_SESSION"  # in the place of an id: open one


def short_id(session_id: str) -> str:
    """For logs: enough to tell sessions apart, too little to use one."""
    return session_id[:8]


@dataclass(slots=True)
class Session:
    """One conversation of one caller. ``data`` is for custom handlers and goes with the session; we never look into it."""

    id: str
    expires_at: float  # time.time()
    num_requests: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def expires(self) -> str:
        """As SageMaker wants it in the header that announces the session. The fraction is dropped: better early than late."""
        return datetime.fromtimestamp(self.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def short_id(self) -> str:
        return short_id(self.id)


class Sessions:
    """The open sessions of this process, at most ``max_open``. They end ``lifetime_s`` after their opening, used or not: SageMaker was
    told that time and sends nothing here behind it."""

    def __init__(self, lifetime_s: int, max_open: int, clock: Callable[[], float] = time.time) -> None:
        self._lifetime_s = lifetime_s
        self._max_open = max_open
        self._clock = clock
        self._sessions: dict[str, Session] = {}  # the order of opening is the order of expiry

    def open(self) -> Session:
        """Raises SessionFailed when as many are open as may be."""
        now = self._clock()
        self._forget_expired(now)
        if len(self._sessions) >= self._max_open:
            raise SessionFailed(
                f"{self._max_open} sessions are open, as many as --max-sessions allows; close one, or wait until one of them expires."
            )
        # 122 bits from the system's random source, in letters that SageMaker takes: it refuses what urlsafe tokens may hold.
        session = Session(str(uuid.uuid4()), now + self._lifetime_s)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str) -> Session:
        """The open session of that id. Raises RequestError."""
        session = self._sessions.get(session_id)
        if session is None or session.expires_at <= self._clock():
            raise RequestError(
                f"session not found: it expired ({self._lifetime_s} s after its opening), was closed, or never was open here; "
                "open another one with NEW_SESSION.",
                SESSION_ID,
            )
        return session

    def close(self, session_id: str) -> Session:
        """The session, which is open no more. Raises RequestError."""
        session = self.find(session_id)
        self.forget(session)
        return session

    def forget(self, session: Session) -> None:
        """Without a word if it is gone already."""
        self._sessions.pop(session.id, None)

    def num_open(self) -> int:
        self._forget_expired(self._clock())
        return len(self._sessions)

    def _forget_expired(self, now: float) -> None:
        while self._sessions and (first := next(iter(self._sessions.values()))).expires_at <= now:
            del self._sessions[first.id]
