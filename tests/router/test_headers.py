"""Which headers go through."""

from __future__ import annotations

from headway.server.router.headers import to_client, to_server


def sent(*given: tuple[bytes, bytes]) -> dict[str, str]:
    pairs = to_server(given, "id-1", "10.1.1.1", "https")
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def test_what_belongs_to_a_connection_ends_there() -> None:
    got = sent(
        (b"connection", b"close, X-Private"),
        (b"x-private", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"host", b"evil"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"expect", b"100-continue"),
        (b"proxy-authorization", b"Basic x"),
        (b"authorization", b"Bearer k"),
        (b"traceparent", b"00-1-2-01"),
        (b"x-amzn-sagemaker-session-id", b"s"),
    )
    added = {"endpoint-load-metrics-format", "x-forwarded-for", "x-forwarded-proto", "x-request-id"}
    assert got.keys() - added == {"authorization", "traceparent", "x-amzn-sagemaker-session-id"}


def test_the_router_adds_who_asked_and_the_id() -> None:
    got = sent((b"x-request-id", b"spoofed"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"http"))
    assert got["x-request-id"] == "id-1"
    assert got["x-forwarded-for"] == "1.2.3.4, 10.1.1.1"
    assert got["x-forwarded-proto"] == "https"


def test_the_load_is_asked_for_and_only_shown_to_those_who_ask_too() -> None:
    assert sent()["endpoint-load-metrics-format"] == "TEXT"
    asked = (b"endpoint-load-metrics-format", b"JSON")
    assert sent(asked)["endpoint-load-metrics-format"] == "JSON"
    answer = [(b"Endpoint-Load-Metrics", b"JSON {}"), (b"X-Other", b"1")]
    assert to_client(answer, [], []) == [(b"x-other", b"1")]
    assert to_client(answer, [asked], []) == [(b"endpoint-load-metrics", b"JSON {}"), (b"x-other", b"1")]


def test_an_answer_keeps_its_length_and_loses_what_the_router_writes_itself() -> None:
    answer = [
        (b"Content-Length", b"3"),
        (b"Date", b"x"),
        (b"Connection", b"X-A"),
        (b"X-A", b"1"),
        (b"X-Request-Id", b"theirs"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
    ]
    assert to_client(answer, [], [b"x-request-id"]) == [(b"content-length", b"3"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
