"""The steps from a body's fields to the work that they ask for: the same for a request, a batch's line and a WebSocket's message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.protocol.base import GenerationFields, RequestModel
from headway.server.api.protocol.parse import parse_request
from headway.server.api.sagemaker.shapes import operation_of
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.operations import Operation


@dataclass(frozen=True, slots=True)
class Invocation:
    """A body understood and validated."""

    operation: Operation[Any]
    request: RequestModel

    @property
    def is_stream(self) -> bool:
        request = self.request
        return request.streams if isinstance(request, GenerationFields) else bool(getattr(request, "stream", False))

    async def open(self, state: AppState, call: Call) -> Answer:
        return await self.operation.open(state, call, self.request)


def understand(route: str | None, fields: dict[str, Any]) -> Invocation:
    """``route`` is what the custom attributes of the HTTP request, or of the WebSocket's handshake, ask for. Raises RequestError."""
    operation = operation_of(fields, route)
    return Invocation(operation, parse_request(operation.model, fields))
