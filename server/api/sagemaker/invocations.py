"""POST /invocations: a chat or a completion, told apart by what the body holds."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.deps import state_of
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.answers import call_of, respond
from headway.server.api.routes.body import read_fields
from headway.server.api.serving.operations import CHAT, COMPLETION, Operation
from headway.server.errors import RequestError

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_VISIBLE_ASCII = re.compile(r"[\x20-\x7e]{1,1024}")


async def invoke(http: Request) -> Response:
    fields = await read_fields(http)
    if "messages" in fields and "prompt" in fields:
        raise RequestError("The body holds both messages (a chat) and prompt (a completion); send one of them.", "messages")
    if "messages" in fields:
        operation: Operation[Any] = CHAT
    elif "prompt" in fields:
        operation = COMPLETION
    else:
        raise RequestError("The body needs messages (for a chat) or prompt (for a completion).", "messages")
    request = parse_request(operation.model, fields)
    answer = await operation.open(state_of(http), await call_of(http), request)
    return await respond(http, answer, headers=_echoed_headers(http))


def _echoed_headers(http: Request) -> dict[str, str]:
    """What SageMaker's caller expects to get back as it was."""
    attributes = http.headers.get(CUSTOM_ATTRIBUTES)
    return {CUSTOM_ATTRIBUTES: attributes} if attributes and _VISIBLE_ASCII.fullmatch(attributes) else {}
