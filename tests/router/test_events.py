"""Events on their way through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.router import events as module
from headway.server.router.events import WholeEvents, framing_of


@given(
    st.lists(st.sampled_from([b"data: {}", b"event: x\ndata: 1", b": c"]), max_size=6), st.sampled_from([b"\n\n", b"\r\n\r\n"]), st.data()
)
def test_however_it_is_cut_whole_events_come_out_in_order(parts: list[bytes], end: bytes, data: st.DataObject) -> None:
    text = b"".join(part + end for part in parts) + data.draw(st.sampled_from([b"", b"data: half"]))
    events, out, at = WholeEvents(), [], 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        out.append(events.feed(text[at : at + size]))
        at += size
        assert events.is_between_events
        assert b"".join(out) == b"" or b"".join(out).endswith(end)
    assert b"".join(out) + events.rest() == text


def test_whole_events_are_passed_on_at_once() -> None:
    assert WholeEvents().feed(b"data: 1\n\n") == b"data: 1\n\n"


def test_an_endless_event_is_let_through_and_no_error_is_put_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_HELD_BYTES", 10)
    events = WholeEvents()
    assert events.feed(b"data: 123") == b""
    assert events.feed(b"4567") == b"data: 1234567"
    assert not events.is_between_events
    assert events.feed(b"89") == b"89"
    assert events.feed(b"\n\n") == b"\n\n"
    assert events.is_between_events


@pytest.mark.parametrize(("path", "end"), [("/v1/chat/completions", b"data: [DONE]\n\n"), ("/v1/messages", b""), ("/v1/responses", b"")])
def test_an_error_has_the_form_of_the_routes_api(path: str, end: bytes) -> None:
    framing = framing_of(path)
    body = {"error": {"message": "m", "type": "BadGatewayError", "param": None, "code": 502}}
    text = framing.frame([framing.error(body)]) + framing.end
    assert text.endswith(end)
    [line] = [line for line in text.splitlines() if line.startswith(b"data: {")]
    told = json.loads(line.removeprefix(b"data: "))
    assert told.get("error", told)["message"] == "m"
