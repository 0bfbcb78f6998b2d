"""A turn of a chat: messages to a prompt, the model's text to reasoning, content and calls. Every chat-like API answers through it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from headway.server.api.adapters import Adapter
from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.serving.answer import Answer, AnswerFormat, GeneratedAnswer
from headway.server.api.serving.call import Call
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Generation
from headway.server.api.serving.limits import check_limits
from headway.server.api.serving.prompts import EncodedPrompt, encode_prompt, rendered_chat
from headway.server.config.chat import ChatConfig
from headway.server.text.output import OutputParser, PlainParser


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
    adapter: Adapter | None = state.adapter_of(request.model, call.adapter)
    runs_template = request.chat_template is not None
    prompt = await off_loop(call.num_bytes, lambda: _prompt(state.config.chat, model, request), runs_template=runs_template)
    turn = Turn(state, request, model, prompt, public_id, state.name_of(adapter))
    form = make_form(turn)
    generation = await Generation.open(state, model, request, [prompt], public_id, call, adapter)
    return GeneratedAnswer(state, request, generation, form, _Parsing(_parser_of(turn)))


def _prompt(chat: ChatConfig, model: ServedModel, request: ChatCompletionRequest) -> EncodedPrompt:
    text = rendered_chat(chat, model, request)
    return encode_prompt(model, text, add_special_tokens=request.add_special_tokens, param="messages", num_wanted=1)


def _parser_of(turn: Turn) -> Callable[[], OutputParser]:
    """Makes a parser for each choice of ``turn``."""
    return PlainParser


class _Parsing:
    """Turns the text of choices into what it says, in place."""

    def __init__(self, make_parser: Callable[[], OutputParser]) -> None:
        self._parsers: defaultdict[int, OutputParser] = defaultdict(make_parser)

    def __call__(self, delta: ChoiceDelta) -> None:
        parser = self._parsers[delta.index]
        pieces = [parser.push(delta.text, delta.token_ids)]
        if delta.finish_reason is not None:
            pieces.append(parser.finish())
        delta.text = "".join(piece.content for piece in pieces)
        delta.reasoning = "".join(piece.reasoning for piece in pieces)
        delta.tool_calls = [call for piece in pieces for call in piece.tool_calls]
