"""Streams of every family, read by several independent readers whatever the boundaries of the network's pieces are."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import ApiServer
from event_readers import READERS, Event, standard

# All that readers have been seen to break on: line ends of every kind, what looks like fields and ends of streams, characters of several
# bytes (each byte is a token of its own here), and a mark that only the first bytes of a stream may be.
NASTY = (
    "“é😀”\u2028a\u2029b\x85c\x0b\x0c\x1c\x1d\x1e\r\n\r\r"
    'd\n\ndata: [DONE]\n\nevent: error\n: x\nid: 1\x00\\u2028"\\\ufeff\x7f👩\u200d👩\u200d👧 .'
)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": NASTY}], "max_tokens": 200, "stream": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chats": ("/v1/chat/completions", CHAT | {"n": 3, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2}),
    "completion": ("/v1/completions", {"prompt": NASTY, "max_tokens": 200, "stream": True, "logprobs": 1}),
    "completions": ("/v1/completions", {"prompt": ["a", NASTY], "max_tokens": 200, "stream": True, "echo": True}),
    "messages": ("/v1/messages", CHAT),
    "responses": ("/v1/responses", {"input": NASTY, "max_output_tokens": 200, "stream": True}),
    "invocation": ("/invocations", CHAT),
}
TYPED = ("messages", "responses")  # their last event is an end of its own: no [DONE]
BEATS = {"messages": b'event: ping\ndata: {"type":"ping"}\n\n'}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer(max_model_len=2**20) as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    engine = shared.engine
    engine.text, engine.tokens_per_delta, engine.fail_after, engine.is_bursty = NASTY, 1, None, False
    return shared


def cut(text: bytes, draw: random.Random) -> Iterator[bytes]:
    """Into pieces at any place, characters and line ends too."""
    at = 0
    while at < len(text):
        to = at + draw.choice((1, 2, 3, draw.randrange(1, 400)))
        yield text[at:to]
        at = to


def with_beats(text: bytes, beat: bytes, draw: random.Random) -> bytes:
    """A heartbeat may stand before any event, and behind any but the last."""
    events = text.split(b"\n\n")[:-1]
    return b"".join((beat if draw.random() < 0.5 else b"") + event + b"\n\n" for event in events)


def texts_of(events: list[Event]) -> dict[int, str]:
    """Checks what holds in any stream, and gives each choice's text."""
    texts: dict[int, str] = {}
    ends: dict[int, int] = {}
    if events[-1] == ("", "[DONE]"):
        for name, data in events[:-1]:
            assert name == ""
            for choice in json.loads(data)["choices"]:
                index = choice["index"]
                piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
                assert index not in ends, "nothing comes behind a choice's end"
                texts[index] = texts.get(index, "") + piece
                if choice["finish_reason"] is not None:
                    ends[index] = 1
        assert ends.keys() == texts.keys()
        return texts
    told = [json.loads(data) for _, data in events]
    assert [name for name, _ in events] == [event["type"] for event in told]
    if told[0]["type"] == "response.created":
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert [event["type"] for event in told][-2:] == ["response.output_item.done", "response.completed"]
        text = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
        assert told[-1]["response"]["output"][0]["content"][0]["text"] == text
        return {0: text}
    assert [event["type"] for event in told][-2:] == ["message_delta", "message_stop"]
    return {0: "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta")}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reader_reads_the_same(server: ApiServer, family: str) -> None:
    path, body = FAMILIES[family]
    text = server.post(path, body).content
    events = standard([text])
    echoed = {1: NASTY, 0: "a"} if family == "completions" else {}
    assert texts_of(events) == {index: echoed.get(index, "") + NASTY for index in range(max(body.get("n", 1), len(echoed)))}
    beat = BEATS.get(family, b": keep-alive\n\n")
    draw = random.Random(family)
    for name, read in READERS.items():
        for _ in range(8):
            assert read(cut(text, draw)) == events, name
            beating = read(cut(with_beats(text, beat, draw), draw))
            assert [event for event in beating if event[0] != "ping"] == events, name


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_half_way_ends_it_as_the_family_does(server: ApiServer, family: str) -> None:
    path, body = FAMILIES[family]
    server.engine.fail_after, server.engine.error = 3, f"broke: {NASTY}"
    text = server.post(path, body).content
    for read in READERS.values():
        assert read(cut(text, random.Random(1))) == standard([text])
    (name, data), *rest = standard([text])[-1 if family in TYPED else -2 :]
    told = json.loads(data)
    if family == "responses":
        assert (name, rest) == ("response.failed", [])
        assert told["response"]["error"] == {"code": "server_error", "message": server.engine.error}
        return
    told = told["error"]
    assert (told["message"], told["param"], told["code"]) == (server.engine.error, None, 500)
    if family == "messages":
        assert (name, told["type"], rest) == ("error", "api_error", [])
    else:
        assert (name, told["type"], rest) == ("", "InternalServerError", [("", "[DONE]")])


def test_official_clients_read_it(server: ApiServer) -> None:
    messages = CHAT["messages"]
    with server.openai().chat.completions.stream(model="tiny", messages=messages) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == NASTY
        assert stream.get_final_completion().choices[0].message.content == NASTY
    chunks = server.openai().completions.create(model="tiny", prompt=NASTY, max_tokens=200, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == NASTY
    with server.anthropic().messages.stream(model="tiny", max_tokens=200, messages=messages) as told:
        assert told.get_final_text() == NASTY
    with server.openai().responses.stream(model="tiny", input=NASTY) as events:
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == NASTY
        assert events.get_final_response().output_text == NASTY


@pytest.mark.parametrize("family", ["chat", "completion", "messages", "responses"])
def test_an_event_may_be_huge(server: ApiServer, family: str) -> None:
    path, _ = FAMILIES[family]
    server.engine.text, server.engine.tokens_per_delta = "😀\u2028" * 50_000, 2**20
    text = server.post(path, much(family, 2**19)).content
    for read in READERS.values():
        assert texts_of(read([text[:70_001], text[70_001:]])) == {0: server.engine.text}


def much(family: str, num_tokens: int) -> dict[str, Any]:
    """The family's request, with room for so many tokens."""
    _, body = FAMILIES[family]
    limit = "max_output_tokens" if family == "responses" else "max_tokens"
    return {**{name: value for name, value in body.items() if name != "logprobs"}, limit: num_tokens}


def connection_of(server: ApiServer, raw: socket.socket) -> Any:
    """The server's end, once there is one."""
    return next((end for end in list(server.connections) if end.transport.get_extra_info("peername") == raw.getsockname()), None)


@pytest.mark.parametrize("family", ["chat", "completion", "messages", "responses"])
def test_a_slow_reader_loses_nothing(server: ApiServer, family: str) -> None:
    path, _ = FAMILIES[family]
    server.engine.text = "é😀\u2028" * 2000
    request = json.dumps(much(family, 2**18)).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", server.port))
        server.wait_for(lambda: connection_of(server, raw) is not None)
        connection = connection_of(server, raw)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw.sendall(f"POST {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(request)}\r\n\r\n".encode() + request)
        # The server has filled all that stands between, and waits.
        server.wait_for(lambda: connection.flow.write_paused)
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert texts_of(standard([received.partition(b"\r\n\r\n")[2]])) == {0: server.engine.text}


@pytest.mark.parametrize("family", FAMILIES)
def test_silence_is_filled_before_the_first_event_and_between(family: str) -> None:
    path, body = FAMILIES[family]
    beat = BEATS.get(family, b": keep-alive\n\n")
    with ApiServer(http={"sse_keep_alive_interval": 0.02}) as server:
        server.engine.gate.clear()  # it waits for its turn in the engine
        with server.client.stream("POST", path, json=body) as response:
            pieces = response.iter_raw()
            received = next(pieces)
            while family == "responses" and not received.endswith(beat):  # whose first events wait for nothing
                received += next(pieces)
            assert received.endswith(beat)
            assert family == "responses" or received == beat
            server.on_loop(server.engine.gate.set)
            while b"finish_reason" not in received and b"message_start" not in received and b"output_text.delta" not in received:
                received += next(pieces)
            received += b"".join(pieces)
    assert texts_of([event for event in standard([received]) if event[0] != "ping"])


def test_lines_are_lines(server: ApiServer) -> None:
    """JSON lines, streamed and as a batch's answer."""
    lines = server.post("/invocations", CHAT, headers={"accept": "application/jsonlines"}).text.splitlines()
    pieces = [choice["delta"].get("content", "") for line in lines for choice in json.loads(line)["choices"]]
    assert "".join(pieces) == NASTY
    batch = b"\n".join(json.dumps({"prompt": prompt, "max_tokens": 200}).encode() for prompt in ("a", NASTY))
    answers = server.client.post("/invocations", content=batch, headers={"content-type": "application/jsonlines"}).text.splitlines()
    assert [json.loads(answer)["choices"][0]["text"] for answer in answers] == [NASTY, NASTY]


def test_http_1_0_knows_no_chunks(server: ApiServer) -> None:
    """nginx asks so unless it is told otherwise. A stream ends with the connection, a whole answer has its length."""
    for stream in (True, False):
        request = json.dumps({"prompt": "x", "stream": stream, "max_tokens": 200}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
            raw.sendall(b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(request) + request)
            head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert (b"content-length: %d" % len(body) in head) is not stream
        assert (texts_of(standard([body]))[0] if stream else json.loads(body)["choices"][0]["text"]) == NASTY
