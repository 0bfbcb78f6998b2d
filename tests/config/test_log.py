from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from headway.server.log import configure_logging


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
