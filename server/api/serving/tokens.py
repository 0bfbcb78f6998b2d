"""Texts and chats as token ids, and token ids as text."""

from __future__ import annotations

from typing import Any

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.api.serving.answer import Answer, FinishedAnswer
from headway.server.api.serving.call import Call
from headway.server.api.serving.prompts import chat_ids, check_ids, refuse_hopeless
from headway.server.config.chat import ChatConfig


async def open_tokenize(state: AppState, call: Call, request: TokenizeRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError."""
    model = state.ready_model()
    state.adapter_of(request.model, call.adapter)  # adapters have the model's own tokens
    runs_template = request.chat_template is not None
    return await off_loop(call.num_bytes, lambda: FinishedAnswer(_tokens(state.config.chat, model, request)), runs_template=runs_template)


async def open_detokenize(state: AppState, call: Call, request: DetokenizeRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError."""
    model = state.ready_model()
    state.adapter_of(request.model, call.adapter)
    return await off_loop(call.num_bytes, lambda: FinishedAnswer(_text(model, request)))


def _text(model: ServedModel, request: DetokenizeRequest) -> dict[str, Any]:
    check_ids(model, request.tokens, "tokens")
    return {"prompt": model.tokenizer.decode(request.tokens, skip_special_tokens=False)}


def _tokens(chat: ChatConfig, model: ServedModel, request: TokenizeRequest) -> dict[str, Any]:
    ids = _token_ids(chat, model, request)
    texts = [model.tokenizer.id_to_token(token_id) for token_id in ids] if request.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.info.max_model_len, "tokens": ids, "token_strs": texts}


def _token_ids(chat: ChatConfig, model: ServedModel, request: TokenizeRequest) -> list[int]:
    if request.prompt is not None:
        refuse_hopeless(model, request.prompt, "prompt")
        return model.tokenizer.encode(request.prompt, add_special_tokens=request.add_special_tokens is not False)
    return chat_ids(chat, model, request, add_special_tokens=request.add_special_tokens is True)
