"""The steps from a body's fields to the work that they ask for: the same for a request, a batch's line and a WebSocket's message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from headway.server.api.deps import AppState
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_request
from headway.server.api.sagemaker.attributes import asked_route
from headway.server.api.sagemaker.shapes import operation_of
from headway.server.api.serving.answer import Answer, Call
from headway.server.api.serving.operations import Operation


@dataclass(frozen=True, slots=True)
class Invocation:
    """A body understood and validated."""

    operation: Operation[Any]
    request: RequestModel

    @property
    def is_stream(self) -> bool:
        return bool(getattr(self.request, "stream", False))

    async def open(self, state: AppState, call: Call) -> Answer:
        return await self.operation.open(state, call, self.request)


def understand(headers: Headers, fields: dict[str, Any]) -> Invocation:
    """``headers`` are those of the HTTP request, or of the WebSocket's handshake. Raises RequestError."""
    operation = operation_of(fields, asked_route(headers))
    return Invocation(operation, parse_request(operation.model, fields))
