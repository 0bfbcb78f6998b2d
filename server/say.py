"""The lines that a process writes beside its log: warnings about options, the banner, the last words. One event, one line, at once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Literal


def say(level: Literal["error", "warning"], sentence: str, as_json: bool = False) -> None:
    """Writes ``headway: error: sentence``, or the same as a JSON object, to stderr."""
    text = f"headway: {level}: {one_line(sentence)}"
    sys.stderr.write((json_line(time.time(), level.upper(), "headway", sentence) if as_json else text) + "\n")
    sys.stderr.flush()


def announce(lines: Iterable[str], as_json: bool = False) -> None:
    """Writes ready lines to stderr, each as one, or as a JSON object."""
    for line in lines:
        sys.stderr.write((json_line(time.time(), "INFO", "headway", line.strip()) if as_json else indented_line(line)) + "\n")
    sys.stderr.flush()


def json_line(at: float, level: str, role: str, message: str, **more: object) -> str:
    """One object of the JSON log; ``at`` in seconds since 1970."""
    return json.dumps({"time": timestamp(at), "level": level, "role": role, "message": message, **more})


def timestamp(at: float) -> str:
    """``2026-11-23T10:00:00.123Z``."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"


def one_line(text: str) -> str:
    """``text`` without anything that could end a line or steer a terminal: such characters are shown as Python would write them."""
    text = text.strip()
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def indented_line(text: str) -> str:
    """The same with the indentation kept, which is what makes a traceback readable."""
    line = text.lstrip(" ")
    return " " * (len(text) - len(line)) + one_line(line)
