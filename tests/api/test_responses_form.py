"""The events of a response, however its turn was cut into pieces: they fold to the response that a whole answer is."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import openai
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.protocol import answers
from headway.server.api.protocol.parse import parse_request
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Usage
from headway.server.api.serving.prompts import EncodedPrompt
from headway.server.api.serving.responses.form import ResponseForm
from headway.server.api.serving.responses.ids import ResponseIds
from headway.server.api.serving.responses.translate import chat_request
from headway.server.api.serving.turn import Turn
from headway.server.config.server import ServerConfig
from headway.server.text.generation import GenerationDefaults
from headway.server.text.output import ToolCallPiece
from headway.server.types import TokenLogprobs

IDS = ResponseIds("stem")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=None)
# A turn: what the model thinks, says, or calls, in its order; a call is (name, arguments).
Said = tuple[str, Any]


def form_of(stream: bool, ended: list[bytes] | None = None, **fields: Any) -> ResponseForm:
    request = parse_request(ResponsesRequest, {"input": "x", "stream": stream, **fields})
    parsers = SimpleNamespace(tools="hermes", reasoning=None)
    model = SimpleNamespace(tokenizer=byte_level_tokenizer(), defaults=GenerationDefaults(), parsers=parsers)
    chat = chat_request(request, [{"role": "user", "content": "x"}])
    state = SimpleNamespace(config=ServerConfig())
    prompt = EncodedPrompt([1, 2, 3], "x")
    turn = Turn(cast("AppState", state), chat, cast("ServedModel", model), prompt, IDS.response, "tiny", created=1)
    return ResponseForm(turn, request, IDS, (ended if ended is not None else []).append, is_stored=True)


def delta_of(said: Said | None, call: int, *, is_first: bool = True, end: str | None = None) -> ChoiceDelta:
    delta = ChoiceDelta(0, "", [], None, None, end, None)
    match said:
        case ("reasoning", text):
            delta.reasoning = text
        case ("text", text):
            delta.text = text
        case ("call", (name, arguments)):
            delta.tool_calls = [ToolCallPiece(call, name if is_first else None, arguments)]
    return delta


def pieces_of(turn: list[Said], cuts: list[int], end: str) -> list[ChoiceDelta]:
    """Each thing said, cut into pieces of the given lengths."""
    pieces, call = [], -1
    lengths = iter(cuts * 100)
    for kind, content in turn:
        call += kind == "call"
        name, rest = content if kind == "call" else ("", content)
        is_first = True
        while rest or (kind == "call" and is_first):
            length = next(lengths)
            piece, rest = rest[:length], rest[length:]
            pieces.append(delta_of((kind, (name, piece) if kind == "call" else piece), call, is_first=is_first))
            is_first = False
    return [*pieces, delta_of(None, call, end=end)]


def told(form: ResponseForm, pieces: list[ChoiceDelta]) -> list[dict[str, Any]]:
    events = form.opening()
    for piece in pieces:
        events += form.chunks(piece, None)
    events.append(form.usage_chunk(USAGE, None))
    return [json.loads(event) for event in events if event]


texts = st.text(min_size=1, max_size=12)
turns = st.lists(
    st.tuples(st.sampled_from(["reasoning", "text"]), texts)
    | st.tuples(st.just("call"), st.tuples(st.sampled_from("fg"), st.text(max_size=12))),
    max_size=6,
)


def normal(turn: list[Said]) -> list[Said]:
    """Neighbours of one kind are one thing said."""
    merged: list[Said] = []
    for kind, content in turn:
        if kind != "call" and merged and merged[-1][0] == kind:
            merged[-1] = (kind, merged[-1][1] + content)
        else:
            merged.append((kind, content))
    return merged


@given(turns, st.lists(st.integers(1, 5), min_size=1, max_size=8), st.sampled_from(["stop", "length", "tool_calls"]))
@settings(max_examples=100, deadline=None)
def test_events_fold_to_the_whole_answer(turn: list[Said], cuts: list[int], end: str) -> None:
    turn = normal(turn)
    kept: list[bytes] = []
    events = told(form_of(True, kept), pieces_of(turn, cuts, end))
    whole = form_of(False)
    assert told(whole, pieces_of(turn, [100], end)) == []
    last = events[-1]["response"]
    assert without_chance(last) == without_chance(whole.response())
    assert json.loads(kept[0]) == last
    assert folded(events) == last["output"]
    _check_with_the_official_client(events)
    answers.Response.model_validate_json(json.dumps(last), strict=True)
    said = [(item["type"], _content(item)) for item in last["output"]]
    names = {"reasoning": "reasoning", "text": "message", "call": "function_call"}
    assert said == ([(names[kind], content) for kind, content in turn] or ([] if end == "length" else [("message", "")]))


def without_chance(response: dict[str, Any]) -> dict[str, Any]:
    """But for the time, and the calls' ids, which are drawn."""
    return {**response, "completed_at": 0, "output": [{**item, "call_id": ""} for item in response["output"]]}


def _content(item: dict[str, Any]) -> Any:
    return (item["name"], item["arguments"]) if item["type"] == "function_call" else item["content"][0]["text"]


def folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a reader puts together from additions and deltas alone, its statuses from the end."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif kind == "content_part.added":
            items[event["output_index"]]["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            items[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            items[event["output_index"]]["arguments"] += event["delta"]
        elif kind.endswith(".done") and kind != "output_item.done":
            item = items[event["output_index"]]
            assert event["item_id"] == item["id"]
            assert event.get("text", event.get("arguments")) in (
                None,
                item["content"][0]["text"] if "content" in item else item["arguments"],
            )
        elif kind == "output_item.done":
            items[event["output_index"]]["status"] = event["item"]["status"]
            assert items[event["output_index"]] == event["item"]
    return items


def _check_with_the_official_client(events: list[dict[str, Any]]) -> None:
    """Its types, and the accumulator of its stream() helper."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=[], text_format=openai.omit)
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        EVENT.validate_python(event, strict=True)
        state.handle_event(construct_type_unchecked(type_=cast("Any", ResponseStreamEvent), value=event))
    Response.model_validate(events[-1]["response"], strict=True)


def test_an_answer_that_is_cut_off_leaves_its_last_item_incomplete() -> None:
    events = told(form_of(True), pieces_of([("text", "a"), ("call", ("f", '{"x":'))], [9], "length"))
    assert [item["status"] for item in events[-1]["response"]["output"]] == ["completed", "incomplete"]
    assert (events[-1]["type"], events[-1]["response"]["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )


def test_logprobs_are_those_of_the_message() -> None:
    def piece(text: str, token_id: int, *, reasoning: str = "", end: str | None = None) -> ChoiceDelta:
        return ChoiceDelta(0, text, [token_id], [TokenLogprobs(token_id, -0.5, 1, [])], None, end, None, reasoning=reasoning)

    form = form_of(True, include=["message.output_text.logprobs"])
    # Thoughts, a mark without text, a token whose text comes with the next one, and the token that ends the answer.
    pieces = [piece("", 65, reasoning="A"), piece("", 66, reasoning="B"), piece("", 67), piece("cd", 68), piece("", 69, end="stop")]
    output = told(form, pieces)[-1]["response"]["output"]
    assert [at["token"] for at in output[1]["content"][0]["logprobs"]] == ["C", "D", "E"]
