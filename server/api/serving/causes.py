"""What is behind the end of a request that is no answer: what the server is doing, or what became of the engine."""

from __future__ import annotations

from headway.server.api.deps import AppState
from headway.server.api.errors import GenerationAborted, GenerationFailed
from headway.server.errors import AbortedBySleep, EngineAsleep, EngineDead, HeadwayError, QueueTimedOut, ServerDraining


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
