"""POST /tokenize and /detokenize."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.deps import ServedModel, state_of
from headway.server.api.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from headway.server.api.routes.body import read_request
from headway.server.api.serving.prompts import check_ids, off_loop, refuse_hopeless


async def tokenize(http: Request) -> Response:
    state = state_of(http)
    request = await read_request(http, TokenizeRequest)
    model = state.ready_model()
    state.adapter_of(request.model)  # it has the model's own tokens
    return await off_loop(http, lambda: _tokens(model, request))


async def detokenize(http: Request) -> Response:
    state = state_of(http)
    request = await read_request(http, DetokenizeRequest)
    model = state.ready_model()
    state.adapter_of(request.model)
    return await off_loop(http, lambda: _text(model, request))


def _text(model: ServedModel, request: DetokenizeRequest) -> Response:
    check_ids(model, request.tokens, "tokens")
    return JSONResponse({"prompt": model.tokenizer.decode(request.tokens, skip_special_tokens=False)})


def _tokens(model: ServedModel, request: TokenizeRequest) -> Response:
    ids = _token_ids(model, request)
    texts = [model.tokenizer.id_to_token(token_id) for token_id in ids] if request.return_token_strs else None
    return JSONResponse({"count": len(ids), "max_model_len": model.info.max_model_len, "tokens": ids, "token_strs": texts})


def _token_ids(model: ServedModel, request: TokenizeRequest) -> list[int]:
    if request.prompt is not None:
        refuse_hopeless(model, request.prompt, "prompt")
        return model.tokenizer.encode(request.prompt, add_special_tokens=request.add_special_tokens is not False)
    text = model.chat_template.render(
        request.messages,
        tools=request.tools or None,
        add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        continue_final_message=request.continue_final_message,
        kwargs=request.chat_template_kwargs,
    )
    refuse_hopeless(model, text, "messages")
    return model.tokenizer.encode(text, add_special_tokens=request.add_special_tokens is True)
