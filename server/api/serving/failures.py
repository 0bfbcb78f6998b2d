"""What the end of a request means that is no answer: first by itself, then in the light of what the server is doing."""

from __future__ import annotations

import math
import time

from headway.server.api.deps import AppState
from headway.server.api.errors import GenerationAborted, GenerationFailed
from headway.server.errors import AbortedBySleep, EngineAsleep, EngineDead, HeadwayError, QueueTimedOut, RequestTimedOut, ServerDraining
from headway.server.types import FinishReason, TokenDelta

_MOST_RETRY_S = 60


def failure_of(delta: TokenDelta) -> HeadwayError | None:
    """None for a good end, and for no end."""
    text = delta.error or "The engine failed on this request."
    match delta.finish_reason:
        case None | FinishReason.STOP | FinishReason.LENGTH:
            return None
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


def explained(state: AppState, failure: HeadwayError) -> HeadwayError:
    """What the client is told: the same, or the cause behind it. Counts what expired in the queue."""
    match failure:
        case QueueTimedOut(reason=reason):
            state.metrics.count_rejection(reason)
        case GenerationAborted():
            if state.drain.is_draining:
                return ServerDraining("The server is shutting down and has aborted this request; send it again elsewhere.")
            return AbortedBySleep("The server was put to sleep, which has aborted this request; send it again once it is woken.")
        case GenerationFailed():
            if (cause := state.engine.dead_cause) is not None:
                return EngineDead(cause)
            if level := state.engine.sleep_state.level:  # it was put to sleep while the request was on its way
                return EngineAsleep(level)
    return failure
