"""GET /v1/models, one of them, and /tokenizer_info."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.adapters import Adapter
from headway.server.api.deps import AppState, ServedModel, state_of


async def show_tokenizer_info(http: Request) -> Response:
    """tokenizer_config.json, with the special tokens and the chat template that are in effect."""
    state = state_of(http)
    if not state.config.http.enable_tokenizer_info_endpoint:
        raise HTTPException(404)
    model = state.ready_model()
    return JSONResponse(
        {
            **model.tokenizer.config,
            **model.tokenizer.special_tokens,
            "vocab_size": model.tokenizer.vocab_size,
            "chat_template": model.chat_template.sources.get("default"),
        }
    )


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
