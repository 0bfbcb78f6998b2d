"""What options put in place of the table's handlers, or before them."""

from __future__ import annotations

from headway.server.api.deps import Handler
from headway.server.api.metrics import Metrics
from headway.server.api.sagemaker.invocations import invoke
from headway.server.api.sagemaker.session_gate import with_sessions, without_sessions
from headway.server.api.sagemaker.sessions import Sessions
from headway.server.config.sagemaker import SagemakerConfig

INVOCATIONS = "/invocations"


def replaced_handlers(config: SagemakerConfig, metrics: Metrics) -> dict[str, Handler]:
    """By path."""
    if not config.enable_stateful_sessions:
        return {INVOCATIONS: without_sessions(invoke)}
    sessions = Sessions(config.sessions_expiration, config.max_sessions)
    metrics.add_gauge("sagemaker_sessions_open", "Stateful sessions that are open.", sessions.num_open)
    return {INVOCATIONS: with_sessions(sessions, invoke)}
