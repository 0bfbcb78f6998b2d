"""A turn of a chat: messages to a prompt, the model's text to reasoning, content and calls. Every chat-like API answers through it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from headway.server.api.adapters import Adapter
from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.serving.answer import Answer, AnswerFormat, GeneratedAnswer
from headway.server.api.serving.call import Call
from headway.server.api.serving.generate import Asked, Generation
from headway.server.api.serving.grammar import checked_grammar
from headway.server.api.serving.limits import check_limits
from headway.server.api.serving.prompts import EncodedPrompt, encode_prompt, rendered_chat, template_kwargs
from headway.server.api.serving.reading import AnswerReader, Reading, check_auto_choice
from headway.server.api.serving.tool_calls import CallWriter
from headway.server.api.serving.truncation import truncation_of
from headway.server.config.chat import ChatConfig


@dataclass(frozen=True, slots=True)
class Turn:
    """What a family's AnswerFormat is made of. ``name`` is the model's as answers show it."""

    state: AppState
    request: ChatCompletionRequest
    model: ServedModel
    prompt: EncodedPrompt
    public_id: str
    name: str
    created: int = field(default_factory=lambda: int(time.time()))

    def call_writer(self) -> CallWriter:
        num_earlier = sum(len(message.get("tool_calls") or ()) for message in self.request.messages)
        return CallWriter(self.model.parsers.tools, num_earlier)


async def open_turn(
    state: AppState,
    call: Call,
    request: ChatCompletionRequest,
    public_id: str,
    make_form: Callable[[Turn], AnswerFormat],
) -> Answer:
    """``request`` is the turn in chat's terms; other families translate theirs. ``make_form`` writes the answer.

    Raises the errors of deps.generating_model, RequestError (``param`` in chat's terms), QueueFull, RequestTimedOut.
    """
    model = state.generating_model()
    check_limits(request, state.config.limits)
    check_auto_choice(request, state.config.chat.enable_auto_tool_choice)
    adapter: Adapter | None = state.adapter_of(request.model, call.adapter)
    runs_template = request.chat_template is not None
    rendered, prompt = await off_loop(call.num_bytes, lambda: _prompt(state.config.chat, model, request), runs_template=runs_template)
    turn = Turn(state, request, model, prompt, public_id, state.name_of(adapter))
    form = make_form(turn)
    reading = Reading(model, request, rendered, template_kwargs(state.config.chat, request))
    constraint = await off_loop(call.num_bytes, request.asked_grammar)
    grammar = await checked_grammar(model, constraint and msgspec.structs.replace(constraint, starts_after=reading.end_of_reasoning))
    thinking = reading.thinking_budget(request.thinking_token_budget)
    asked = Asked(request, [prompt], public_id, adapter, grammar, thinking, keeps_special_tokens=reading.keeps_special_tokens)
    generation = await Generation.open(state, model, call, asked)
    return GeneratedAnswer(state, request, generation, form, AnswerReader(reading, request, generation))


def _prompt(chat: ChatConfig, model: ServedModel, request: ChatCompletionRequest) -> tuple[str, EncodedPrompt]:
    """(what the template wrote, what of it the model gets)"""
    text = rendered_chat(chat, model, request)
    encoded = encode_prompt(
        model,
        text,
        add_special_tokens=request.add_special_tokens,
        param="messages",
        num_wanted=1,
        truncation=truncation_of(request, model),
    )
    return text, encoded
