"""What options put in place of the table's handlers, or before them."""

from __future__ import annotations

from headway.server.api.deps import Handler
from headway.server.api.metrics import Metrics
from headway.server.api.sagemaker.custom.loading import CustomHandlers
from headway.server.api.sagemaker.invocations import invoke
from headway.server.api.sagemaker.session_gate import with_sessions, without_sessions
from headway.server.api.sagemaker.sessions import Sessions
from headway.server.config.sagemaker import SagemakerConfig

INVOCATIONS = "/invocations"


def replaced_handlers(config: SagemakerConfig, metrics: Metrics, custom: CustomHandlers | None) -> dict[str, Handler]:
    """By path. Sessions work with a custom handler, too; without them it gets every request as it came."""
    handlers = dict(custom.handlers) if custom else {}
    if config.enable_stateful_sessions:
        sessions = Sessions(config.sessions_expiration, config.max_sessions)
        metrics.add_gauge("sagemaker_sessions_open", "Stateful sessions that are open.", sessions.num_open)
        handlers[INVOCATIONS] = with_sessions(sessions, handlers.get(INVOCATIONS, invoke))
    elif INVOCATIONS not in handlers:
        handlers[INVOCATIONS] = without_sessions(invoke)
    return handlers
