"""InvokeEndpointWithResponseStream: a call, an answer in the messages of an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headway.container.local.eventstream import CONTENT_TYPE, payload_part, stream_error
from headway.container.local.runtime.call import Call
from headway.container.local.runtime.container import ContainerLost
from headway.container.local.runtime.invoke import ATTRIBUTES, VARIANT
from headway.container.local.runtime.model_error import connection_lost, model_error, timed_out
from headway.container.local.runtime.parts import parts_of
from headway.container.local.runtime.runtime import Runtime, forward_operation
from headway.container.local.targets import Target

_LATE = "The model did not finish its answer within the time that is allowed."
_BROKEN = "The connection to the model was reset or closed."


async def invoke_streaming(runtime: Runtime, call: Call, endpoint: str) -> None:
    """Raises PlatformError; once the answer has begun, its last message is the error."""
    await forward_operation(runtime, call, "InvokeEndpointWithResponseStream", endpoint, _forward)


async def _forward(runtime: Runtime, call: Call, endpoint: str, target: Target, headers: Mapping[str, str], body: bytes) -> None:
    try:
        async with (
            asyncio.timeout(runtime.limits.stream_s),
            runtime.container.post(f"{target.url}/invocations", headers, body) as answer,
        ):
            if not 200 <= answer.status < 300:
                raise model_error(runtime.place, endpoint, target, answer.status, await answer.read())
            await call.begin(200, _head(answer.headers, target))
            async for part in parts_of(answer.content, runtime.parts, runtime.faults):
                await call.write(payload_part(part))
    except TimeoutError:
        if not call.status:
            raise timed_out(runtime.place, endpoint, target) from None
        await call.write(stream_error("ModelStreamError", _LATE, "ModelInvocationTimeExceeded"))
    except ContainerLost as lost:
        if not call.status:
            raise connection_lost(runtime.place, endpoint, target) from lost
        await call.write(stream_error("ModelStreamError", _BROKEN, "StreamBroken"))
    await call.end()


def _head(headers: Mapping[str, str], target: Target) -> list[tuple[str, str]]:
    found = [("Content-Type", CONTENT_TYPE), (VARIANT, target.variant)]
    if "Content-Type" in headers:
        found.append(("X-Amzn-SageMaker-Content-Type", headers["Content-Type"]))
    if ATTRIBUTES in headers:
        found.append((ATTRIBUTES, headers[ATTRIBUTES]))
    return found
