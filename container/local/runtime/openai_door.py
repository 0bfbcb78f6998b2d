"""`/endpoints/NAME[/inference-components/IC]/openai/v1/chat/completions`: the container's own chat route, for OpenAI's clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import aiohttp

from headway.container.local.errors import PlatformError, validation_error
from headway.container.local.runtime.call import Call
from headway.container.local.runtime.container import ContainerLost
from headway.container.local.runtime.invoke import VARIANT
from headway.container.local.runtime.members import read_members
from headway.container.local.runtime.model_error import connection_lost, model_error, timed_out
from headway.container.local.runtime.runtime import Runtime
from headway.container.local.targets import Target, Wish

PATH = ("openai", "v1", "chat", "completions")
_COMPONENT = "InferenceComponentName"


async def chat(runtime: Runtime, call: Call, endpoint: str, component: str | None) -> None:
    """Raises PlatformError."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise PlatformError(401, "authentication_error", "A bearer token is required: any in the local runtime, which checks none.")
    members = read_members("InvokeEndpoint", call.headers)
    if _COMPONENT in members:
        raise validation_error(
            "The inference component stands in the path here: leave out the header X-Amzn-SageMaker-Inference-Component."
        )
    only = {name: value for name, value in members.items() if name in ("ContentType", "Accept")}
    await runtime.forward_to_copy(call, endpoint, Wish(component=component), only, _forward)


async def _forward(runtime: Runtime, call: Call, endpoint: str, target: Target, headers: Mapping[str, str], body: bytes) -> None:
    """Which of the two time limits holds, the container's answer tells."""
    limits, start = runtime.limits, asyncio.get_running_loop().time()
    try:
        async with (
            asyncio.timeout(limits.answer_s) as limit,
            runtime.container.post(f"{target.url}/v1/chat/completions", headers, body) as answer,
        ):
            passed = [("Content-Type", answer.headers.get("Content-Type", "application/json")), (VARIANT, target.variant)]
            if answer.status == 200 and answer.content_type == "text/event-stream":
                limit.reschedule(start + limits.stream_s)
                await call.begin(200, passed)
                await _stream(call, answer)
                return
            content = await answer.read()
    except (TimeoutError, ContainerLost) as problem:
        if call.status:
            await call.drop()
            return
        told = timed_out if isinstance(problem, TimeoutError) else connection_lost
        raise told(runtime.place, endpoint, target) from problem
    if not 200 <= answer.status < 300:
        raise model_error(runtime.place, endpoint, target, answer.status, content)
    await call.answer(200, passed, content)


async def _stream(call: Call, answer: aiohttp.ClientResponse) -> None:
    async for part in answer.content.iter_any():
        await call.write(part)
    await call.end()


def error_body(problem: PlatformError) -> bytes:
    """In the form of OpenAI's API."""
    if problem.code == "ModelError":
        kind, code = "server_error", "model_error"
    elif problem.status < 500:
        kind, code = "invalid_request_error", "validation_error" if problem.code == "ValidationError" else problem.code
    else:
        kind, code = "server_error", problem.code
    return json.dumps({"error": {"message": str(problem), "type": kind, "param": None, "code": code}}).encode()
