"""The application: the runtime's REST paths, the control plane's operations, and one line of log for each call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from headway.container.local.callers import refusal
from headway.container.local.errors import PlatformError
from headway.container.local.runtime import openai_door
from headway.container.local.runtime.call import Call, CallerGone, Receive, Scope, Send
from headway.container.local.runtime.invoke import invoke
from headway.container.local.runtime.members import check_endpoint_name, prepare
from headway.container.local.runtime.runtime import Runtime
from headway.container.local.runtime.stream import invoke_streaming
from headway.server.say import one_line, timestamp

# Takes an operation's name, the one after the service's in X-Amz-Target, and answers the call.
Service = Callable[[str, Scope, Receive, Send], Awaitable[None]]
_MAX_ASYNC_BYTES = 1 << 20  # inline input has at most 128,000, which asynchronous inference checks


class Accepted(Protocol):
    """The 202 of asynchronous inference."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> Mapping[str, str]: ...


Submit = Callable[[str, Mapping[str, str], bytes], Accepted]


class App:
    """ASGI. ``services`` by the name before the dot of X-Amz-Target; ``submit`` takes asynchronous calls; ``host`` is `--host`."""

    def __init__(
        self, runtime: Runtime, services: Mapping[str, Service] | None = None, submit: Submit | None = None, host: str = ""
    ) -> None:
        prepare()
        self._runtime = runtime
        self._host = host
        self._services = dict(services or {})
        self._submit = submit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "served without lifespan and WebSockets"
        call = Call(scope, receive, send)
        start = time.perf_counter()
        try:
            await self._answer(call)
        except CallerGone:
            call.note = "the caller has gone"
        except asyncio.CancelledError:  # by nobody but the server, which ends and has waited long enough
            call.note = "the runtime ends"
            await _break_off(call)
        finally:
            _log(call, (time.perf_counter() - start) * 1000)

    async def _answer(self, call: Call) -> None:
        words = call.path.split("/")[1:]
        is_openai = tuple(words[-4:]) == openai_door.PATH
        try:
            if (reason := refusal(call.headers, self._host)) is not None:
                raise PlatformError(403, "AccessDeniedException", reason)
            if call.path == "/ping" and call.method == "GET":  # of the runtime itself, for scripts that start it
                await call.answer(200, [], b"")
            elif words[0] == "endpoints" and len(words) >= 3:
                await self._endpoint(call, words[1], words[2:], is_openai)
            else:
                await self._operation(call)
        except PlatformError as problem:
            if is_openai:
                await call.answer(problem.status, [("content-type", "application/json")], openai_door.error_body(problem))
            else:
                await _answer_error(call, problem)

    async def _endpoint(self, call: Call, endpoint: str, words: list[str], is_openai: bool) -> None:
        if call.method != "POST":
            raise PlatformError(405, "UnsupportedOperation", "Endpoints take POST.")
        check_endpoint_name(endpoint)
        await self._runtime.meet_faults(call)
        match words:
            case ["invocations"]:
                await invoke(self._runtime, call, endpoint)
            case ["invocations-response-stream"]:
                await invoke_streaming(self._runtime, call, endpoint)
            case ["async-invocations"]:
                await self._invoke_async(call, endpoint)
            case ["inference-components", component, *_] if is_openai and len(words) == 6:
                await openai_door.chat(self._runtime, call, endpoint, component)
            case [*_] if is_openai and len(words) == 4:
                await openai_door.chat(self._runtime, call, endpoint, None)
            case _:
                raise _unknown(call.path)

    async def _invoke_async(self, call: Call, endpoint: str) -> None:
        body = await call.body(_MAX_ASYNC_BYTES)
        if self._submit is None:
            raise PlatformError(400, "ValidationError", f"Endpoint {endpoint} has no AsyncInferenceConfig.")
        accepted = self._submit(endpoint, call.headers, body)
        await _answer_json(call, 202, accepted.body, list(accepted.headers.items()))

    async def _operation(self, call: Call) -> None:
        service, dot, operation = call.headers.get("x-amz-target", "").partition(".")
        if not dot or call.path != "/" or call.method != "POST":
            raise _unknown(call.path)
        if service not in self._services:
            raise _not_emulated(f"{service}.{operation}", has_others=bool(self._services))
        call.note = f"{service}.{operation}"
        await self._services[service](operation, call.scope, call.receive, call.send_and_note)


def _unknown(path: str) -> PlatformError:
    return PlatformError(404, "UnknownOperationException", f"{path}: the local runtime has no such path.")


def _not_emulated(target: str, *, has_others: bool) -> PlatformError:
    """With the code in the body too, where clients of services that speak AWS JSON look for it."""
    code = "UnknownOperationException"
    hint = "" if has_others else " `headway local --url` has one endpoint and no control plane; with --image or --process there is one."
    return PlatformError(400, code, f"{target} is not emulated.{hint}", {"__type": code})


async def _break_off(call: Call) -> None:
    if call.status:
        await call.drop()
    else:
        await _answer_error(call, PlatformError(503, "ServiceUnavailable", "The local runtime ends."))


async def _answer_error(call: Call, problem: PlatformError) -> None:
    fields = {"Message": str(problem), "message": str(problem), **problem.fields}
    await _answer_json(call, problem.status, fields, [("x-amzn-ErrorType", problem.code)])


async def _answer_json(call: Call, status: int, fields: Mapping[str, Any], headers: list[tuple[str, str]]) -> None:
    own = [("content-type", "application/json"), ("x-amzn-RequestId", str(uuid.uuid4()))]
    await call.answer(status, [*own, *headers], json.dumps(fields).encode())


def _log(call: Call, duration_ms: float) -> None:
    words = [timestamp(time.time()), call.method, one_line(call.path), str(call.status or "-"), f"{duration_ms:.1f}ms", one_line(call.note)]
    with contextlib.suppress(OSError):  # as of a pipe whose reader has gone
        sys.stderr.write(" ".join(filter(None, words)) + "\n")
