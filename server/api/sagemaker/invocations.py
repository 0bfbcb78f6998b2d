"""POST /invocations: one request of any shape, or JSON lines of several."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.deps import state_of
from headway.server.api.media import JSON, JSON_LINES, chosen, kind_of
from headway.server.api.routes.answers import call_of, respond
from headway.server.api.routes.body import read_request
from headway.server.api.sagemaker.attributes import asked_route, echoed
from headway.server.api.sagemaker.batch import answer_lines
from headway.server.api.sagemaker.understand import understand
from headway.server.api.stream import EVENTS, json_lines

# Clients that can't say what they accept write application/json on streams too (OpenAI's does), so that means events there.
_STREAMS = (EVENTS.media_type, *JSON_LINES, JSON)
_WHOLE = (JSON, *JSON_LINES)  # an answer is one line


async def invoke(http: Request) -> Response:
    if kind_of(http.headers.get("content-type")) in JSON_LINES:
        return await answer_lines(http)
    invocation = await read_request(http, lambda fields: understand(asked_route(http.headers), fields))
    media_type = chosen(http.headers.get("accept"), _STREAMS if invocation.is_stream else _WHOLE)
    framing = json_lines(media_type) if media_type in JSON_LINES else invocation.operation.framing
    answer = await invocation.open(state_of(http), await call_of(http))
    return await respond(http, answer, headers=echoed(http.headers), framing=framing, media_type=media_type)
