"""A small server that keeps SageMaker's contract as container/conformance/ checks it, but for one fault, which is called as its check."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

KEY = "stub-key-5d1a0b"
TRACEBACK = 'Traceback (most recent call last):\n  File "/app/server.py", line 1, in f\n'
OPEN_PATHS = ("/ping", "/metrics")
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"


class Refused(Exception):
    def __init__(self, status: int, message: str = "refused") -> None:
        super().__init__(message)
        self.status = status


class Stub:
    """An ASGI application. ``fault`` is the id of the check that must fail; ``is_draining`` and ``piece_s`` are for copies that stop;
    ``short_piece_s`` is the pace of answers of up to 16 tokens; ``asked`` is max_tokens of each stream."""

    def __init__(self, fault: str = "", *, key: str = KEY) -> None:
        self.fault, self.key = fault, key
        self.is_draining = False
        self.piece_s, self.short_piece_s = 0.0, 0.002
        self.asked: list[int] = []
        self.num_running = 0
        self.is_broken = False
        self.adapters: dict[str, str] = {}
        self.sessions: set[str] = set()
        self.paths: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await self._converse(scope, receive, send)
        else:
            await Call(self, scope, receive, send).answer()

    def has(self, *faults: str) -> bool:
        return self.fault in faults

    def lets_in(self, headers: dict[str, str]) -> bool:
        return headers.get("authorization") == f"Bearer {self.key}"

    async def _converse(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if not self.lets_in(headers) and not self.has("bidirectional.key"):
            start = {"type": "websocket.http.response.start", "status": 401, "headers": []}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        await send({"type": "websocket.accept"})
        if self.has("bidirectional.pong"):
            time.sleep(3.5)  # the loop is blocked, as by work that should not be there
        while (message := await receive())["type"] == "websocket.receive":
            if self.has("bidirectional.answers"):
                await send({"type": "websocket.close", "code": 1011})
                return
            await send({"type": "websocket.send", "text": json.dumps({"echo": message.get("text")})})


class Call:
    """One HTTP request."""

    def __init__(self, stub: Stub, scope: Any, receive: Any, send: Any) -> None:
        self.stub, self.scope, self.receive, self._send = stub, scope, receive, send
        self.method, self.path = scope["method"], scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

    async def answer(self) -> None:
        content = await self._read()
        stub = self.stub
        try:
            guarded = self.path not in OPEN_PATHS or (stub.has("ping.no-key") and self.path == "/ping")
            guarded = guarded or (stub.has("metrics.open") and self.path == "/metrics")
            if guarded and not stub.lets_in(self.headers) and not stub.has("security.key"):
                raise Refused(401)
            await self._route(content)
        except Refused as refused:
            await self._refuse(refused)

    async def _refuse(self, refused: Refused) -> None:
        message = str(refused) + (TRACEBACK if self.stub.has("errors.no-traceback") else "")
        if self.stub.has("errors.json"):
            await self.send(refused.status, b"no JSON", "text/plain")
        elif self.stub.has("openai.errors") and self.path.startswith("/v1"):
            await self.send_json({"message": message}, refused.status)
        else:
            await self.send_json({"error": {"message": message}}, refused.status)

    async def _route(self, content: bytes) -> None:
        routes: dict[str, Callable[[bytes], Awaitable[None]]] = {
            "/ping": self._ping,
            "/invocations": self._invocations,
            "/v1/chat/completions": self._openai,
            "/metrics": self._metrics,
            "/execution-parameters": self._execution_parameters,
            "/v1/models": self._models,
        }
        if self.path.startswith("/adapters"):
            await self._adapters(content)
        elif self.path in routes:
            await routes[self.path](content)
        else:
            self.stub.paths.add(self.path)
            raise Refused(500 if self.stub.has("errors.mapping") else 404)

    async def _ping(self, _: bytes) -> None:
        stub = self.stub
        if stub.has(f"ping.{self.method.lower()}"):
            raise Refused(405)
        if stub.has("ping.time") or (stub.has("ping.load") and stub.num_running):
            await asyncio.sleep(2.1)
        is_dead = stub.is_broken or (stub.is_draining and not stub.has("stop.ping"))
        await self.send(503 if is_dead else 200, b"")

    async def _invocations(self, content: bytes) -> None:
        stub, headers = self.stub, self.headers
        if self.method != "POST":
            raise Refused(405)
        self._judge_headers()
        if "jsonlines" in headers.get("content-type", ""):
            lines = content.split() if stub.has("batch.json-lines") else content.strip().split(b"\n")
            await self.send(200, b"\n".join(b'{"choices": []}' for _ in lines), "application/jsonlines")
            return
        body = self._parsed(content)
        if ("requestType" in body or "x-amzn-sagemaker-session-id" in headers) and await self._session(body):
            return
        adapter = headers.get("x-amzn-sagemaker-adapter-identifier")
        if adapter is not None and adapter not in stub.adapters and not stub.has("adapters.unknown"):
            raise Refused(404)
        if "route=/metrics" in headers.get(ATTRIBUTES, "") and stub.has("security.routes"):
            await self._metrics(b"")
            return
        if stub.has("invocations.answers", "start.loading"):
            raise Refused(500)
        await self._answer_chat(body)

    def _judge_headers(self) -> None:
        headers, stub = self.headers, self.stub
        refuses = (
            (stub.has("headers.unknown") and "x-amzn-sagemaker-some-new-header" in headers)
            or (stub.has("headers.many") and len(headers) > 30)
            or (stub.has("headers.charset") and "charset" in headers.get("content-type", ""))
            or (stub.has("headers.no-content-type") and "content-type" not in headers)
        )
        if refuses:
            raise Refused(400)

    def _parsed(self, content: bytes) -> dict[str, Any]:
        stub = self.stub
        status = 500 if stub.has("errors.bad-json") and content else 500 if stub.has("errors.empty-body") and not content else 400
        if stub.has("errors.survived") and not content:
            stub.is_broken = True
        if stub.has("errors.huge-body") and len(content) > 25 * 2**20:
            raise Refused(500)
        if content[:100].count(b"[") > 50:
            raise Refused(500 if stub.has("errors.deep-json") else 400)
        try:
            body = json.loads(content)
        except ValueError as error:
            raise Refused(status, "no JSON") from error
        if not isinstance(body, dict) or not isinstance(body.get("messages", []), list) or not (set(body) & {"messages", "requestType"}):
            raise Refused(500 if stub.has("errors.wrong-types") else 400, "wrong types")
        empty_fails = stub.has("invocations.model-empty") or (stub.has("openai.model-empty") and self.path.startswith("/v1"))
        if (stub.has("invocations.model-missing") and "messages" in body and "model" not in body) or (
            empty_fails and body.get("model") == ""
        ):
            raise Refused(404)
        return body

    async def _openai(self, content: bytes) -> None:
        if self.stub.has("openai.chat"):
            raise Refused(404)
        await self._answer_chat(self._parsed(content))

    async def _answer_chat(self, body: dict[str, Any]) -> None:
        stub = self.stub
        stub.num_running += 1
        try:
            if stub.has("ping.load") or body.get("max_tokens", 0) > 100:
                await asyncio.sleep(0.05)
            if body.get("stream") or (stub.has("streams.only-when-asked") and body.get("stream") is False):
                stub.asked.append(body.get("max_tokens", 0))
                await self._stream(0.3 if stub.asked[-1] > 500 else stub.short_piece_s if stub.asked[-1] <= 16 else stub.piece_s or 0.002)
            else:
                message = {"choices": [{"message": {"content": "one é two"}, "finish_reason": "stop"}]}
                kind = "text/plain" if stub.has("invocations.content-type") else "application/json"
                is_chunked = stub.has("invocations.content-length")
                await self.send(200, json.dumps(message).encode(), kind, is_chunked=is_chunked)
        finally:
            stub.num_running -= not (stub.has("streams.disconnect-frees") and self.is_gone)

    is_gone = False

    async def _stream(self, piece_s: float) -> None:
        stub = self.stub
        kind = "application/json" if stub.has("streams.sse") else "text/event-stream"
        await self._start(200, kind)
        left = asyncio.ensure_future(self._wait_left())
        pieces = ["one ", "\N{REPLACEMENT CHARACTER}" if stub.has("streams.characters") else "é", " two", ""]
        for piece in pieces:
            if stub.has("stop.stream") and stub.is_draining:
                left.cancel()
                raise RuntimeError("the connection breaks")
            choice = {"delta": {"content": piece}, "finish_reason": None if piece else "stop"}
            if not (stub.has("openai.stream") and self.path.startswith("/v1") and piece):
                await self._piece(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            await asyncio.sleep(piece_s)
            if left.done():
                self.is_gone = True
                stub.is_broken = stub.has("streams.disconnect")
                return
        left.cancel()
        if not stub.has("streams.end"):
            await self._piece(b"data: [DONE]\n\n")
        await self._send({"type": "http.response.body", "body": b""})

    async def _wait_left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _session(self, body: dict[str, Any]) -> bool:
        """Whether the request is answered with that."""
        stub, session_id = self.stub, self.headers.get("x-amzn-sagemaker-session-id", "")
        if body.get("requestType") == "NEW_SESSION":
            expires = "tomorrow" if stub.has("sessions.open") else "2099-01-01T00:00:00Z"
            stub.sessions.add("session-1")
            await self.send_json({}, headers={"x-amzn-sagemaker-new-session-id": f"session-1; Expires={expires}"})
            return True
        if body.get("requestType") == "CLOSE":
            stub.sessions.discard(session_id)
            closed = {} if stub.has("sessions.life") else {"x-amzn-sagemaker-closed-session-id": session_id}
            await self.send_json({}, headers=closed)
            return True
        if session_id not in stub.sessions and not stub.has("sessions.unknown"):
            raise Refused(400)
        return False

    async def _adapters(self, content: bytes) -> None:
        stub, name = self.stub, self.path.removeprefix("/adapters").strip("/")
        if self.method == "GET":
            await self.send_json({"adapters": list(stub.adapters)})
        elif self.method == "POST":
            fields = json.loads(content)
            is_outside = not re.fullmatch(r"/opt/ml/model/[a-z]+", fields.get("src", ""))
            if is_outside and not stub.has("adapters.src"):
                raise Refused(400)
            stub.adapters[fields["name"]] = fields["src"]
            await self.send_json({})
        elif stub.has("adapters.life") and name in stub.adapters:
            await self.send_json({})  # and it stays
        elif stub.adapters.pop(name, None) is None and not stub.has("adapters.remove-unknown"):
            raise Refused(404)
        else:
            await self.send_json({})

    async def _metrics(self, _: bytes) -> None:
        stub = self.stub
        lines = ["# TYPE requests counter", 'requests_total{path="/invocations"} 1.0']
        lines += ["# TYPE vllm:num_requests_running gauge", f"vllm:num_requests_running {stub.num_running}"]
        lines += [f'requests_total{{path="{path}"}} 1.0' for path in sorted(stub.paths)] if stub.has("metrics.bounded") else []
        text = "{}" if stub.has("metrics.text") else "\n".join(lines) + "\n"
        await self.send(200, text.encode(), "text/plain; version=0.0.4")

    async def _models(self, _: bytes) -> None:
        await self.send_json({"data": [{"id": "stub"}]})

    async def _execution_parameters(self, _: bytes) -> None:
        max_mb = 101 if self.stub.has("batch.execution-parameters") else 6
        await self.send_json({"MaxConcurrentTransforms": 4, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": max_mb})

    async def _read(self) -> bytes:
        content = bytearray()
        while True:
            message = await self.receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                return bytes(content)

    async def send_json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        await self.send(status, json.dumps(body).encode(), "application/json", headers)

    async def send(
        self,
        status: int,
        content: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
        *,
        is_chunked: bool = False,
    ) -> None:
        await self._start(status, kind, None if is_chunked else len(content), headers)
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else content})

    async def _start(self, status: int, kind: str, length: int | None = None, headers: dict[str, str] | None = None) -> None:
        sent = {"content-type": kind, **(headers or {}), **({} if length is None else {"content-length": str(length)})}
        attributes = self.headers.get(ATTRIBUTES)
        if attributes and not self.stub.has("headers.attributes-echoed"):
            sent[ATTRIBUTES] = attributes if self.stub.has("headers.attributes-bounded") else attributes[:1024]
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _piece(self, content: bytes) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
