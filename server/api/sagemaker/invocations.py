"""POST /invocations: a chat or a completion, told apart by what the body holds."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.deps import state_of
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.body import read_fields
from headway.server.api.serving.answer import Call
from headway.server.api.serving.chat import chat_completion
from headway.server.api.serving.completion import completion
from headway.server.errors import RequestError

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_VISIBLE_ASCII = re.compile(r"[\x20-\x7e]{1,1024}")


async def invoke(http: Request) -> Response:
    state = state_of(http)
    fields = await read_fields(http)
    if "messages" in fields and "prompt" in fields:
        raise RequestError("The body holds both messages (a chat) and prompt (a completion); send one of them.", "messages")
    if "messages" in fields:
        chat = parse_request(ChatCompletionRequest, fields)
        return await chat_completion(state, Call.of(http, chat, _echoed_headers(http)), chat)
    if "prompt" in fields:
        plain = parse_request(CompletionRequest, fields)
        return await completion(state, Call.of(http, plain, _echoed_headers(http)), plain)
    raise RequestError("The body needs messages (for a chat) or prompt (for a completion).", "messages")


def _echoed_headers(http: Request) -> dict[str, str]:
    """What SageMaker's caller expects to get back as it was."""
    attributes = http.headers.get(CUSTOM_ATTRIBUTES)
    return {CUSTOM_ATTRIBUTES: attributes} if attributes and _VISIBLE_ASCII.fullmatch(attributes) else {}
