"""POST /v1/chat/completions and /v1/completions; GET /v1/models."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.adapters import Adapter
from headway.server.api.deps import AppState, ServedModel, state_of
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.routes.body import read_request
from headway.server.api.serving.answer import Call
from headway.server.api.serving.chat import chat_completion
from headway.server.api.serving.completion import completion


async def create_chat_completion(http: Request) -> Response:
    request = await read_request(http, ChatCompletionRequest)
    return await chat_completion(state_of(http), Call.of(http, request), request)


async def create_completion(http: Request) -> Response:
    request = await read_request(http, CompletionRequest)
    return await completion(state_of(http), Call.of(http, request), request)


async def list_models(http: Request) -> Response:
    """Only once the model is ready: clients take this list for a sign that they may begin."""
    state = state_of(http)
    model = state.ready_model()
    cards = [_card(state, model, name, None) for name in state.served.names]
    return JSONResponse({"object": "list", "data": [*cards, *(_card(state, model, a.name, a) for a in state.adapters.all())]})


async def show_model(http: Request) -> Response:
    state = state_of(http)
    model = state.ready_model()
    name = http.path_params["model_id"]
    if not name:
        raise HTTPException(404)
    return JSONResponse(_card(state, model, name, state.adapter_of(name)))


def _card(state: AppState, model: ServedModel, name: str, adapter: Adapter | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "headway",
        "root": adapter.src if adapter else state.config.model.model,
        "parent": state.served.name if adapter else None,
        "max_model_len": model.info.max_model_len,
        "permission": [],
    }
