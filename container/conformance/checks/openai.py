"""The OpenAI-compatible front door: SageMaker passes /endpoints/NAME/openai/v1/chat/completions on to /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.events import DONE, events_of, first_choice, pieces_of, text_of
from headway.container.conformance.outcome import NotApplicable, require
from headway.container.conformance.probe import Probe

_PAGE = "realtime-endpoints-openai-compatible"
_PATH = "/v1/chat/completions"


@check(
    "openai.chat", "/v1/chat/completions answers a chat", Clause(_PAGE, "The container must implement /v1/chat/completions on port 8080.")
)
def chat(probe: Probe) -> None:
    answer = probe.post(_PATH, _body(probe))
    require(answer.status == 200, f"{_PATH} is answered {answer.status}")
    require(isinstance(first_choice(answer.json()).get("message"), dict), "the answer has no choices[0].message")


@check(
    "openai.model-empty",
    'An OpenAI client may send `"model": ""`',
    Clause(_PAGE, "The endpoint selects the model; `model` is passed through."),
)
def model_empty(probe: Probe) -> None:
    answer = probe.post(_PATH, {**_body(probe), "model": ""})
    require(answer.status == 200, f"with an empty `model` {_PATH} is answered {answer.status}")


@check("openai.stream", "A streamed chat is events up to [DONE]", Clause(_PAGE, "Streams are server-sent events, passed through."))
def stream(probe: Probe) -> None:
    answer = probe.post(_PATH, {**_body(probe), "stream": True})
    require(answer.status == 200, f"a streamed chat is answered {answer.status}")
    events = events_of(answer.content)
    require(events and events[-1] == DONE, f"the last event is not {DONE}")
    require(any(map(text_of, pieces_of(events))), "no event has text in choices[0].delta")


@check(
    "openai.errors",
    'An error is `{"error": {"message": ..}}`',
    Clause(_PAGE, "OpenAI's clients show the message of the error object."),
    Severity.SHOULD,
)
def errors(probe: Probe) -> None:
    answer = probe.post(_PATH, {**_body(probe), "messages": 7})
    require(400 <= answer.status < 500, f"messages that are a number are answered {answer.status}")
    fields = answer.json()
    error = fields.get("error") if isinstance(fields, dict) else None
    require(isinstance(error, dict) and error.get("message"), "the error has no error.message")


def _body(probe: Probe) -> dict[str, Any]:
    if probe.shape.kind != "chat":
        raise NotApplicable(f"the model answers {probe.shape.kind} requests, no chats")
    return probe.shape.body
