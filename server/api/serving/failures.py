"""What the end of a request means that is no answer, by itself: see causes.py for what may be behind it."""

from __future__ import annotations

import math
import time

from headway.server.api.errors import GenerationAborted, GenerationFailed
from headway.server.errors import HeadwayError, QueueTimedOut, RequestError, RequestTimedOut
from headway.server.types import FinishReason, TokenDelta

_MOST_RETRY_S = 60


def failure_of(delta: TokenDelta) -> HeadwayError:
    """Of one whose finish reason is no answer.

    To be raised without a name: an exception that a frame of its own traceback names keeps all that the request had, its prompt too,
    until the collector of garbage comes by.
    """
    text = delta.error or "The engine failed on this request."
    if delta.is_request_fault:
        return RequestError(text)
    match delta.finish_reason:
        case FinishReason.ABORT:
            return GenerationAborted("The engine has aborted this request.")
        case FinishReason.TIMEOUT:
            return RequestTimedOut(text)
        case FinishReason.QUEUE_TIMEOUT:
            assert delta.times is not None, "the engine ends a request with its times"
            # It will not be better soon: as long again as it has waited.
            waited_s = time.time() - delta.times.arrival
            return QueueTimedOut(text, min(math.ceil(waited_s), _MOST_RETRY_S))
        case _:
            return GenerationFailed(text)
