"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.routes.answers import answer_to
from headway.server.api.serving.operations import COUNT_TOKENS, MESSAGES


async def create_message(http: Request) -> Response:
    return await answer_to(http, MESSAGES)


async def count_tokens(http: Request) -> Response:
    return await answer_to(http, COUNT_TOKENS)
