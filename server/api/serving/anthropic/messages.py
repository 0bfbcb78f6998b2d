"""Anthropic's Messages: a turn of a chat, and how many tokens its prompt has."""

from __future__ import annotations

from headway.server.api.deps import AppState
from headway.server.api.off_loop import in_parser, off_loop
from headway.server.api.protocol.anthropic import CountTokensRequest, MessagesRequest
from headway.server.api.serving.answer import Answer, FinishedAnswer
from headway.server.api.serving.anthropic.form import MessageForm
from headway.server.api.serving.anthropic.translation import Translation
from headway.server.api.serving.call import Call
from headway.server.api.serving.prompts import chat_ids
from headway.server.api.serving.turn import open_turn
from headway.server.text.reasoning.budget import can_limit_thinking


async def open_messages(state: AppState, call: Call, request: MessagesRequest) -> Answer:
    """Raises as open_turn does."""
    model = state.generating_model()
    # Many clients send a budget whatever the model; where it can't be kept, max_tokens limits both.
    limits_thinking = can_limit_thinking(model.parsers.reasoning, model.tokenizer)
    translation = await in_parser(call.num_bytes, lambda: Translation(request, limits_thinking=limits_thinking))
    chat = translation.chat
    with translation.in_own_words():
        return await open_turn(state, call, chat, f"msg_{call.id_of(chat)}", lambda turn: MessageForm(turn, request))


async def open_count_tokens(state: AppState, call: Call, request: CountTokensRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError."""
    model = state.ready_model()
    state.adapter_of(request.model, call.adapter)  # adapters have the model's own tokens
    translation = await in_parser(call.num_bytes, lambda: Translation(request, limits_thinking=False))
    chat = translation.chat
    with translation.in_own_words():
        return await off_loop(call.num_bytes, lambda: FinishedAnswer({"input_tokens": len(chat_ids(state.config.chat, model, chat))}))
