"""Stateful sessions."""

from __future__ import annotations

import re

from headway.container.conformance.check import Clause, check
from headway.container.conformance.outcome import NotApplicable, require
from headway.container.conformance.probe import Probe

_PAGE = "stateful-sessions"
_SESSION = "x-amzn-sagemaker-session-id"
_NEW = "x-amzn-sagemaker-new-session-id"
_CLOSED = "x-amzn-sagemaker-closed-session-id"
# NewSessionResponseHeader of botocore's sagemaker-runtime.
_ANNOUNCED = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*;\sExpires=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MAX_LENGTH = 256


@check(
    "sessions.open",
    "NEW_SESSION is answered with the session's id and its end",
    Clause("botocore sagemaker-runtime", "NewSessionId is `ID; Expires=YYYY-MM-DDThh:mm:ssZ`, at most 256 characters."),
)
def opened(probe: Probe) -> None:
    announced = _open(probe)
    is_good = _ANNOUNCED.fullmatch(announced) and len(announced) <= _MAX_LENGTH
    require(is_good, f"{_NEW} is {announced!r}, not `ID; Expires=2026-01-31T12:00:00Z`")
    _close(probe, announced)


@check(
    "sessions.life",
    "A session takes calls until it is closed",
    Clause(_PAGE, "Calls carry the session's id; the reply that closes it carries the id in another header."),
)
def life(probe: Probe) -> None:
    announced = _open(probe)
    session_id = announced.partition(";")[0]
    status = probe.invoke(headers={_SESSION: session_id}).status
    require(status == 200, f"a call in the session is answered {status}")
    require(_close(probe, announced) == session_id, f"CLOSE is not answered with {_CLOSED}: {session_id}")
    status = probe.invoke(headers={_SESSION: session_id}).status
    require(400 <= status < 500, f"a call in the closed session is answered {status}")


@check("sessions.unknown", "A call in an unknown session is a 4xx", Clause(_PAGE, "A session is known to the instance that opened it."))
def unknown(probe: Probe) -> None:
    _close(probe, _open(probe))
    status = probe.invoke(headers={_SESSION: "conformance-unknown"}).status
    require(400 <= status < 500, f"an unknown session is answered {status}")


def _open(probe: Probe) -> str:
    """What announces the session. Raises NotApplicable where sessions are off."""
    answer = probe.invoke({"requestType": "NEW_SESSION"}, {_SESSION: "NEW_SESSION"})
    announced = answer.headers.get(_NEW)
    if answer.status in (400, 404, 422, 501) and announced is None:
        raise NotApplicable(f"sessions are not served here: NEW_SESSION is answered {answer.status}")
    require(answer.status == 200, f"NEW_SESSION is answered {answer.status}")
    require(announced, f"NEW_SESSION is answered without {_NEW}")
    return str(announced)


def _close(probe: Probe, announced: str) -> str | None:
    answer = probe.invoke({"requestType": "CLOSE"}, {_SESSION: announced.partition(";")[0]})
    return answer.headers.get(_CLOSED)
