"""InvokeEndpoint: a call, a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headway.container.local.runtime.call import Call
from headway.container.local.runtime.container import ContainerLost
from headway.container.local.runtime.model_error import connection_lost, model_error, timed_out
from headway.container.local.runtime.runtime import Runtime, forward_operation
from headway.container.local.targets import Target

VARIANT = "x-Amzn-Invoked-Production-Variant"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_NEW_SESSION, _CLOSED_SESSION = "X-Amzn-SageMaker-New-Session-Id", "X-Amzn-SageMaker-Closed-Session-Id"
# Of the container's headers, those that the caller gets; each only if the container has set it.
_ANSWERED = ("Content-Type", ATTRIBUTES, _NEW_SESSION, _CLOSED_SESSION)


async def invoke(runtime: Runtime, call: Call, endpoint: str) -> None:
    """Raises PlatformError."""
    await forward_operation(runtime, call, "InvokeEndpoint", endpoint, _forward)


async def _forward(runtime: Runtime, call: Call, endpoint: str, target: Target, headers: Mapping[str, str], body: bytes) -> None:
    try:
        async with (
            asyncio.timeout(runtime.limits.answer_s),
            runtime.container.post(f"{target.url}/invocations", headers, body) as answer,
        ):
            content = await answer.read()
    except TimeoutError:
        raise timed_out(runtime.place, endpoint, target) from None
    except ContainerLost as lost:
        raise connection_lost(runtime.place, endpoint, target) from lost
    if not 200 <= answer.status < 300:
        raise model_error(runtime.place, endpoint, target, answer.status, content)
    _follow_sessions(runtime, endpoint, target, answer.headers)
    passed = [(name, answer.headers[name]) for name in _ANSWERED if name in answer.headers]
    await call.answer(200, [*passed, (VARIANT, target.variant)], content)


def _follow_sessions(runtime: Runtime, endpoint: str, target: Target, headers: Mapping[str, str]) -> None:
    if opened := headers.get(_NEW_SESSION):
        runtime.targets.open_session(endpoint, opened.partition(";")[0], target)
    if closed := headers.get(_CLOSED_SESSION):
        runtime.targets.close_session(endpoint, closed)
