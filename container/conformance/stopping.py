"""SIGTERM while an answer streams, as at a scale-in."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import httpx2

from headway.container.conformance.engines.base import Copy
from headway.container.conformance.events import DONE, events_of, is_end, pieces_of
from headway.container.conformance.outcome import CheckEnded, Skipped
from headway.container.conformance.shapes import Shape
from headway.container.conformance.subject import Subject

LIMIT_S = 30.0  # then the platform sends SIGKILL
# The stream that SIGTERM meets is as long as the model can finish in good time, whatever machine it runs on: a check of the container,
# not of its speed. At 4 tokens/s (a CPU that others use, too) 256 would take a minute.
_STREAM_S = 3.0  # the pace may well be a fourth of what it was a second ago
_NUM_TOKENS = (48, 256)
_PACE_TOKENS = 16
_POLL_S = 0.02
_MAX_STREAM_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Stop:
    """``ping_turned_s`` after SIGTERM /ping was no longer 200; ``exit_status`` is None if the copy still ran at the limit."""

    ping_turned_s: float | None
    is_stream_whole: bool
    stream: str
    exit_status: int | None
    duration_s: float


def stop_with_stream(copy: Copy, subject: Subject) -> Stop:
    """Raises Skipped where the model streams nothing, or ends too soon."""
    shape = subject.shape
    if shape is None or not shape.generates:
        raise Skipped("there is no request that the model answers with a stream")
    begun = Event()
    num_tokens = _num_tokens(subject, shape)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read, subject, shape.streamed(num_tokens), begun)
        begun.wait(subject.wishes.timeout_s)
        if reading.done():
            raise Skipped(f"the stream ended before SIGTERM could be sent: {reading.result()[1]}")
        started = time.monotonic()
        copy.terminate()
        turned_s = _wait_for_turn(subject, copy, started)
        while (status := copy.exit_status()) is None and time.monotonic() - started < LIMIT_S:
            time.sleep(_POLL_S)
        duration_s = time.monotonic() - started
        if status is None:
            copy.close()  # else the stream might never end
        is_whole, described = reading.result()
    return Stop(turned_s, is_whole, described, status, duration_s)


def _num_tokens(subject: Subject, shape: Shape) -> int:
    """How many the model makes in _STREAM_S, by the pace of a short stream behind its first bytes."""
    least, most = _NUM_TOKENS
    times: list[float] = []
    with contextlib.suppress(httpx2.HTTPError, CheckEnded), subject.open_stream(shape.streamed(_PACE_TOKENS)) as response:
        times = [time.monotonic() for _ in response.iter_raw()]
    duration_s = times[-1] - times[0] if times else 0.0
    return most if duration_s * most <= _STREAM_S * _PACE_TOKENS else max(least, int(_STREAM_S * _PACE_TOKENS / duration_s))


def _wait_for_turn(subject: Subject, copy: Copy, started: float) -> float | None:
    while time.monotonic() - started < LIMIT_S:
        try:
            is_ready = subject.ask("GET", "/ping", b"", {}, with_key=False, timeout_s=2).status == 200
        except CheckEnded:
            is_ready = False
        if not is_ready:
            return time.monotonic() - started
        if copy.exit_status() is not None:
            return None
        time.sleep(_POLL_S)
    return None


def _read(subject: Subject, body: dict[str, object], begun: Event) -> tuple[bool, str]:
    """Whether the stream came to its end, and what came of it. ``begun`` is set with its first bytes, or when there will be none."""
    content = bytearray()
    try:
        with subject.open_stream(body) as response:
            for chunk in response.iter_raw():
                content += chunk
                begun.set()
                if len(content) > _MAX_STREAM_BYTES:
                    return False, f"stream of more than {_MAX_STREAM_BYTES} bytes"
            events = events_of(bytes(content))
            is_whole = response.status_code == 200 and events[-1:] == [DONE] and _ends_well(events)
            return is_whole, f"stream -> {response.status_code}, {len(events)} events, the last {''.join(events[-1:])[:80]!r}"
    except (httpx2.HTTPError, CheckEnded) as error:
        return False, f"stream broken off after {len(content)} bytes: {type(error).__name__}"
    finally:
        begun.set()


def _ends_well(events: list[str]) -> bool:
    pieces = pieces_of(events)
    return any(map(is_end, pieces)) and not any("error" in piece for piece in pieces)
