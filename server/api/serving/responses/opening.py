"""Responses: a request to a turn of a chat, in the foreground or in the background, and the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.responses_store import StoredResponse
from headway.server.api.serving.answer import Answer, FinishedAnswer
from headway.server.api.serving.call import Call
from headway.server.api.serving.prompts import chat_ids, check_length
from headway.server.api.serving.responses.answer import ResponseAnswer
from headway.server.api.serving.responses.background import BackgroundAnswer, BackgroundResponse
from headway.server.api.serving.responses.conversation import Conversation, conversation_of, referenced
from headway.server.api.serving.responses.fitting import fitted
from headway.server.api.serving.responses.form import ResponseForm
from headway.server.api.serving.responses.ids import ResponseIds
from headway.server.api.serving.responses.messages import messages_of
from headway.server.api.serving.responses.translate import chat_request, in_words_of_responses
from headway.server.api.serving.turn import Turn, open_turn
from headway.server.api.traces import background_span
from headway.server.errors import QueueFull, RequestError


@dataclass(frozen=True, slots=True)
class _Task:
    """A request understood. ``call``: with the size of the whole conversation."""

    request: ResponsesRequest
    ids: ResponseIds
    call: Call
    conversation: Conversation
    chat: ChatCompletionRequest
    is_stored: bool


async def open_response(state: AppState, call: Call, request: ResponsesRequest) -> Answer:
    """Raises as open_turn does, with ``param`` in the words of responses; and ResponseNotFound."""
    _check_store(state, request)
    task = await _understood(state, call, request)
    if request.background:
        try:
            with state.responses.opening_in_background():
                return await _open_in_background(state, task)
        except QueueFull as full:
            if full.reason == "max_background_responses":  # others are counted where they are found
                state.metrics.count_rejection(full.reason)
            raise

    def keep(response: bytes) -> None:
        if task.is_stored:
            conversation = task.conversation
            state.responses.keep(StoredResponse(task.ids.response, call.owner, conversation.history, conversation.input, response))

    turn, form = await _open(state, task, task.call, keep)
    return ResponseAnswer(turn, form, is_stream=request.stream)


async def open_input_tokens(state: AppState, call: Call, request: ResponsesRequest) -> Answer:
    """Raises the errors of deps.ready_model, RequestError, ResponseNotFound."""
    task = await _understood(state, call, request)
    model = state.ready_model()
    num_tokens = await off_loop(task.call.num_bytes, lambda: _num_tokens(state, model, task.chat))
    return FinishedAnswer({"object": "response.input_tokens", "input_tokens": num_tokens})


async def _open_in_background(state: AppState, task: _Task) -> Answer:
    response = BackgroundResponse(state, task.call, task.ids.response, task.conversation, keeps_events=task.request.stream)
    span = background_span(task.call.span)
    turn, form = await _open(state, task, replace(task.call, span=span), response.on_end)
    await response.begin(turn, form, span)
    return BackgroundAnswer(response)


async def _understood(state: AppState, call: Call, request: ResponsesRequest) -> _Task:
    model = state.generating_model()
    state.adapter_of(request.model, call.adapter)
    store = state.responses
    previous = None if request.previous_response_id is None else store.previous(call.owner, request.previous_response_id)
    kept = referenced(store, call.owner, request.input)
    call = replace(call, num_bytes=_checked_size(state, call, [*([previous] if previous else []), *kept.values()]))
    ids = ResponseIds.fresh(request.request_id)

    def understand() -> _Task:
        conversation = conversation_of(request.input, ids, previous, kept)
        chat = chat_request(request, messages_of(conversation.items))
        if request.truncation == "auto":
            with in_words_of_responses():
                chat = fitted(state.config.chat, model, chat)
        return _Task(request, ids, call, conversation, chat, store.is_on and request.store is not False)

    return await off_loop(call.num_bytes, understand)


def _checked_size(state: AppState, call: Call, kept: Sequence[StoredResponse]) -> int:
    """The bytes of the body and of what it goes on from. Raises RequestError where a body with all of it would be refused."""
    num_bytes = call.num_bytes + sum(response.num_conversation_bytes for response in kept)
    most = state.config.overload.max_request_body_bytes
    if kept and num_bytes > most:
        raise RequestError(
            f"The conversation has {num_bytes} bytes with the responses that are referred to; this server takes {most} "
            "(--max-request-body-bytes). Begin another one.",
            "previous_response_id",
        )
    return num_bytes


async def _open(state: AppState, task: _Task, call: Call, on_end: Callable[[bytes], None]) -> tuple[Answer, ResponseForm]:
    forms: list[ResponseForm] = []

    def make_form(turn: Turn) -> ResponseForm:
        form = ResponseForm(turn, task.request, task.ids, on_end, is_stored=task.is_stored)
        forms.append(form)
        return form

    with in_words_of_responses():
        turn = await open_turn(state, call, task.chat, task.ids.response, make_form)
    return turn, forms[0]


def _check_store(state: AppState, request: ResponsesRequest) -> None:
    """Raises RequestError for what only a store can do."""
    for param in ("store", "background"):
        if getattr(request, param):
            state.responses.check_on(param)


def _num_tokens(state: AppState, model: ServedModel, chat: ChatCompletionRequest) -> int:
    with in_words_of_responses():
        num_tokens = len(chat_ids(state.config.chat, model, chat, add_special_tokens=chat.add_special_tokens))
        check_length(model, num_tokens, "messages", 0)
    return num_tokens
