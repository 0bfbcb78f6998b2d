"""truncation: auto. What of a conversation the context has no room for is left out, the oldest turns first."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.api.deps import ServedModel
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.serving.prompts import encode_prompt, rendered_chat
from headway.server.api.serving.responses.messages import Message
from headway.server.config.chat import ChatConfig
from headway.server.errors import RequestError

_INSTRUCTIONS = ("system", "developer")


def fitted(chat: ChatConfig, model: ServedModel, request: ChatCompletionRequest) -> ChatCompletionRequest:
    """``request`` without as many old messages as need be; what stays begins with a user's message, behind the instructions at the
    front. Room is left for max_output_tokens, by default a quarter of the context, half of it at most.

    Where not even the last turn fits, it alone is left, and refused later. CPU work. Raises RequestError of the chat template.
    """
    length = model.info.max_model_len
    room = min(request.asked_max_tokens or length // 4, length // 2)
    if _fits(chat, model, request, room):
        return request
    messages = request.messages
    start = next((at for at, message in enumerate(messages) if message["role"] not in _INSTRUCTIONS), len(messages))
    cuts = [at for at, message in enumerate(messages) if at > start and message["role"] == "user"]
    low, high = 0, len(cuts) - 1
    while low < high:  # the first cut behind which all fits
        middle = (low + high) // 2
        if _fits(chat, model, _without(request, messages, start, cuts[middle]), room):
            high = middle
        else:
            low = middle + 1
    return _without(request, messages, start, cuts[low]) if cuts else request


def _without(request: ChatCompletionRequest, messages: Sequence[Message], start: int, cut: int) -> ChatCompletionRequest:
    return request.model_copy(update={"messages": [*messages[:start], *messages[cut:]]})


def _fits(chat: ChatConfig, model: ServedModel, request: ChatCompletionRequest, room: int) -> bool:
    text = rendered_chat(chat, model, request)
    try:
        encode_prompt(model, text, add_special_tokens=request.add_special_tokens, param="messages", num_wanted=room)
    except RequestError:
        return False
    return True
