"""Texts, chats and token ids of a request as the token ids that the model reads, cut where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.pooling import InputRequest, PoolingFields
from headway.server.api.protocol.texts import Text
from headway.server.api.protocol.tokenize import TokenizeRequest
from headway.server.api.serving.call import Call
from headway.server.api.serving.prompts import check_ids, refuse_hopeless, rendered_chat
from headway.server.api.serving.truncation import Truncation, pooling_truncation
from headway.server.config.chat import ChatConfig
from headway.server.errors import RequestError
from headway.server.text.fitted import Fitted, Side, fitted_pairs, fitted_texts


def check_number(state: AppState, num_texts: int, param: str) -> None:
    """Raises RequestError."""
    most = state.config.pooling.max_pooling_inputs
    if num_texts > most:
        raise RequestError(f"{param} holds {num_texts} texts; at most {most} (--max-pooling-inputs).", param)


async def read_inputs(state: AppState, call: Call, model: ServedModel, request: InputRequest) -> list[Fitted]:
    """Raises RequestError that names the text at fault."""
    check_number(state, len(request.input or []), "input")
    runs_template = request.chat_template is not None
    return await off_loop(call.num_bytes, lambda: _encoded_inputs(state.config.chat, model, request), runs_template=runs_template)


def _encoded_inputs(chat: ChatConfig, model: ServedModel, request: InputRequest) -> list[Fitted]:
    truncation = pooling_truncation(request, model)
    if request.input is None:
        text = rendered_chat(chat, model, _as_chat(request))
        return _encoded(model, [text], truncation, request.add_special_tokens is True, "messages")
    return _encoded(model, request.input, truncation, request.add_special_tokens is not False, "input")


def encoded_texts(
    model: ServedModel, request: PoolingFields, texts: Sequence[str], param: str, most_tokens: int | None = None
) -> list[Fitted]:
    """CPU work. ``most_tokens``: cut each to so many, whatever else is asked for. Raises as ``read_inputs`` does."""
    truncation = pooling_truncation(request, model)
    if most_tokens is not None and (truncation is None or most_tokens < truncation.num_tokens):
        truncation = Truncation(most_tokens, "right")
    return _encoded(model, texts, truncation, True, param)


def encoded_pairs(
    model: ServedModel, request: PoolingFields, firsts: Sequence[str], seconds: Sequence[str], max_second: int | None, param: str
) -> list[Fitted]:
    """Each pair as one text, for a model that reads both at once. ``param`` is that of the second texts. CPU work. Raises as
    ``read_inputs`` does."""
    truncation = pooling_truncation(request, model)
    if truncation is None and max_second is None:
        for second in seconds:
            refuse_hopeless(model, second, param)
    max_tokens = None if truncation is None else truncation.num_tokens
    side: Side = "right" if truncation is None else truncation.side
    found = fitted_pairs(model.tokenizer, firsts, seconds, max_tokens, side, max_second)
    _check_lengths(model, found, param)
    return found


def _as_chat(request: InputRequest) -> TokenizeRequest:
    return TokenizeRequest(
        messages=request.messages,
        tools=[],
        documents=[],
        reasoning_effort=None,
        add_special_tokens=request.add_special_tokens,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        chat_template=request.chat_template,
        chat_template_kwargs=request.chat_template_kwargs,
    )


def _encoded(
    model: ServedModel, inputs: Sequence[Text], truncation: Truncation | None, add_special_tokens: bool, param: str
) -> list[Fitted]:
    texts = [text for text in inputs if isinstance(text, str)]
    if len(texts) < len(inputs):
        ids = [token_ids for token_ids in inputs if isinstance(token_ids, list)]
        found = [Fitted(token_ids if truncation is None else truncation.of_ids(token_ids, None)) for token_ids in ids]
    elif truncation is not None:
        found = fitted_texts(model.tokenizer, texts, truncation.num_tokens, truncation.side, add_special_tokens=add_special_tokens)
    else:
        for text in texts:
            refuse_hopeless(model, text, param)
        found = [Fitted(ids) for ids in model.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)]
    _check_lengths(model, found, param)
    for fitted in found if len(texts) < len(inputs) else ():
        check_ids(model, fitted.token_ids, param)
    return found


def _check_lengths(model: ServedModel, found: Sequence[Fitted], param: str) -> None:
    longest = model.info.max_model_len
    for index, fitted in enumerate(found):
        name, num_tokens = (f"{param}.{index}" if len(found) > 1 else param), len(fitted.token_ids)
        if num_tokens == 0:
            raise RequestError(f"{name} has no tokens; give at least one.", name)
        if num_tokens > longest:
            raise RequestError(
                f"{name} has {num_tokens} tokens; this model takes {longest}. Shorten it, or have it cut with truncate_prompt_tokens=-1.",
                name,
            )
