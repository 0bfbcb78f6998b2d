from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator

import pytest

from headway.server.log import configure_logging, log_uncaught_in_threads
from headway.server.say import announce, say


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream to log to; the root logger is put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("headway")
    before = root.handlers[:], root.level, ours.level
    yield io.StringIO()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def test_one_line_each_with_time_level_and_role(stream: io.StringIO) -> None:
    configure_logging("INFO", "engine", stream=stream)
    configure_logging("INFO", "engine", stream=stream)
    log = logging.getLogger("headway.server.engine.core")
    log.info("two\nlines of %s", "text")
    log.debug("not shown")
    logging.getLogger("other").info("not shown either")
    logging.getLogger("other").warning("shown")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    engine   two\\nlines of text", lines[0])
    assert lines[1].endswith("WARNING engine   shown")


def test_every_line_of_a_traceback_has_the_prefix(stream: io.StringIO) -> None:
    configure_logging("INFO", "api", stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("headway.x").exception("It broke")
    lines = stream.getvalue().splitlines()
    assert len(lines) > 3
    assert all(" ERROR   api      " in line for line in lines)
    assert lines[-1].endswith("ValueError: broken")


def test_secrets_are_masked(stream: io.StringIO) -> None:
    configure_logging("INFO", "api", secrets=["s3cret", "s3cret-long", "ab"], stream=stream)
    logging.getLogger("headway.x").info("abc %s %s", "s3cret", "s3cret-long")
    assert stream.getvalue().rstrip().endswith("abc *** ***")


def test_passwords_in_urls_are_masked(stream: io.StringIO) -> None:
    configure_logging("INFO", "api", stream=stream)
    logging.getLogger("headway.x").info("https://me:s3cret@mirror/x, 's3://b@c/k' and a@b")
    assert stream.getvalue().rstrip().endswith("https://***@mirror/x, 's3://***@c/k' and a@b")


@pytest.mark.parametrize("separator", ["\r", "\n", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x1b[2J", "\0"])
def test_nothing_in_a_message_ends_a_line_or_steers_a_terminal(separator: str, stream: io.StringIO) -> None:
    configure_logging("INFO", "api", stream=stream)
    log = logging.getLogger("headway.x")
    log.info("before%safter", separator)
    try:
        raise ValueError(f"before{separator}after")
    except ValueError:
        log.exception("broke")
    written = stream.getvalue()
    assert not set(written) & (set(separator) - set("[2J\n"))
    assert all(re.match(r"\d{4}-\S+Z [A-Z]+ +api ", line) for line in written.splitlines())


def test_json_has_one_object_a_line(stream: io.StringIO) -> None:
    configure_logging("INFO", "api", secrets=["s3cret"], stream=stream, as_json=True)
    log = logging.getLogger("headway.x")
    log.info('two\nlines, "quoted", of s3cret')
    try:
        raise ValueError("with s3cret")
    except ValueError:
        log.exception("Request %s failed", "abc", extra={"request_id": "abc"})
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first == {"time": first["time"], "level": "INFO", "role": "api", "message": 'two\nlines, "quoted", of ***'}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["level"], second["message"], second["request_id"]) == ("ERROR", "Request abc failed", "abc")
    assert second["traceback"].startswith("Traceback (most recent call last):\n")
    assert second["traceback"].endswith("ValueError: with ***")


def test_a_thread_that_breaks_is_logged(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back afterwards
    configure_logging("INFO", "api", stream=stream)
    log_uncaught_in_threads()
    thread = threading.Thread(target=lambda: 1 / 0, name="divider")
    thread.start()
    thread.join()
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("ERROR   api      The thread divider broke")
    assert lines[-1].endswith("ZeroDivisionError: division by zero")


def test_what_is_said_beside_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    say("error", "two\nlines")
    say("warning", "as data", as_json=True)
    announce(["headway 1", "  model x\ny\x1b[2J"])
    announce(["  model x"], as_json=True)
    error, warning, first, second, line = capsys.readouterr().err.splitlines()
    assert error == "headway: error: two\\nlines"
    assert {**json.loads(warning), "time": ""} == {"time": "", "level": "WARNING", "role": "headway", "message": "as data"}
    assert (first, second) == ("headway 1", "  model x\\ny\\x1b[2J")
    assert {**json.loads(line), "time": ""} == {"time": "", "level": "INFO", "role": "headway", "message": "model x"}
