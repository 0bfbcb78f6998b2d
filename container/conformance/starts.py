"""Copies of the container as the checks need them: the first, which is watched from its start, and those that a check starts itself."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import httpx2

from headway.container.conformance.engines.base import DEFAULT_PORT, Copy, Engine, Start
from headway.container.conformance.outcome import Failed, Skipped
from headway.container.conformance.shapes import known_shapes
from headway.container.conformance.stopping import Stop, stop_with_stream
from headway.container.conformance.subject import Subject, Wishes
from headway.server.bench.server_process import free_port
from headway.server.config.environment import secret_variables
from headway.server.config.sources import all_names
from headway.server.words import cut

_POLL_S = 0.05
_PING_TIMEOUT_S = 2.0
_REFUSAL_PATIENCE_S = 60.0
_LAST_LINE_LENGTH = 200
BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"


@dataclass(frozen=True, slots=True)
class Boot:
    """What was seen of a start. ``statuses`` are those of /ping, each once in order, None for no connection; ``first_use`` is the status of
    an invocation made at the first 200, ``later_status`` of /ping after it; None without an answer."""

    first_line_s: float | None
    ready_s: float | None
    statuses: tuple[int | None, ...]
    first_use: int | None
    later_status: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a copy with a bad option; ``exit_status`` is None if it still ran after ``patience_s``."""

    variable: str
    value: str
    exit_status: int | None
    duration_s: float
    last_line: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a copy with secrets in its environment let out."""

    log: str
    command_lines: str
    secrets: Mapping[str, str]


class Starts:
    """``environ`` is what every copy gets; ``patience_s`` how long one may load; ``bad`` a variable that it must refuse.

    One copy runs at a time: two might not fit on the device.
    """

    def __init__(self, engine: Engine, environ: Mapping[str, str], wishes: Wishes, patience_s: float, bad: tuple[str, str]) -> None:
        self.engine = engine
        self.environ = environ
        self.patience_s = patience_s
        self._wishes, self._bad = wishes, bad
        self._first: Copy | None = None

    def __enter__(self) -> Starts:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close_first()
        self.engine.close()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values of the copies' environment that must not stand in evidence, such as in a line of a log."""
        return tuple(filter(None, (self.environ[name] for name in secret_variables(self.environ, all_names()))))

    def plan(self, environ: Mapping[str, str] | None = None, words: tuple[str, ...] = ("serve",)) -> Start:
        """On the default port where each copy has its own, else told a free port of this machine."""
        own = {**self.environ, **(environ or {})}
        if self.engine.has_networks:
            return Start(own, words)
        port = free_port()
        return Start({**own, BIND_TO_PORT: str(port)}, words, port)

    @contextmanager
    def running(self, start: Start) -> Iterator[Copy]:
        """Raises HeadwayError if the engine can't start it."""
        self.close_first()
        copy = self.engine.start(start)
        try:
            yield copy
        finally:
            copy.close()

    def start_ready(self, start: Start) -> float:
        """Starts a copy, waits until it is ready, ends it, and returns the seconds. Raises Failed."""
        with self.running(start) as copy:
            return self.wait_ready(copy)

    def wait_ready(self, copy: Copy, *, inside: bool = False) -> float:
        """Seconds until /ping was 200. Raises Failed with the copy's last line."""
        started = time.monotonic()
        while (copy.ping_inside() if inside else ping_status(copy.url)) != 200:
            if (status := copy.exit_status()) is not None:
                raise Failed(f"the container ended with status {status}: {last_line(copy.log())}")
            if time.monotonic() - started > self.patience_s:
                raise Failed(f"/ping is not 200 after {self.patience_s:g} s (--startup-timeout); the last line: {last_line(copy.log())}")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    @cached_property
    def boot(self) -> Boot:
        """Of the first copy, started with the word `serve`; it runs on until another is started."""
        self._first = self.engine.start(self.plan())
        return self._watch(self._first)

    @property
    def url(self) -> str | None:
        """Of the first copy, if it became ready."""
        return self._first.url if self.boot.ready_s is not None and self._first else None

    def close_first(self) -> None:
        if self._first is not None:
            self._first.close()
            self._first = None

    @cached_property
    def stop(self) -> Stop:
        """A copy that gets SIGTERM while it streams. Raises Failed, Skipped."""
        with self.running(self.plan()) as copy, Subject(copy.url, self._wishes) as subject:
            self.wait_ready(copy)
            return stop_with_stream(copy, subject)

    @cached_property
    def refusal(self) -> Refusal:
        variable, value = self._bad
        started = time.monotonic()
        with self.running(self.plan({variable: value})) as copy:
            while (status := copy.exit_status()) is None and time.monotonic() - started < _REFUSAL_PATIENCE_S:
                time.sleep(_POLL_S)
            return Refusal(variable, value, status, time.monotonic() - started, last_line(copy.log()))

    @cached_property
    def guarded(self) -> Guarded:
        """Raises Failed if the copy does not become ready, which foreign variables must not prevent."""
        hidden = {name: f"conformance-{secrets.token_hex(12)}" for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SM_VLLM_API_KEY")}
        with self.running(self.plan(hidden)) as copy:
            self.wait_ready(copy)
            # A request with a wrong and one with the right key: both may be logged.
            for key in ("wrong", hidden["SM_VLLM_API_KEY"]):
                with Subject(copy.url, replace(self._wishes, api_key=key)) as subject:
                    subject.ask("POST", "/invocations", b"{}", {"content-type": "application/json"})
            return Guarded(copy.log(), copy.command_lines(), hidden)

    def _watch(self, copy: Copy) -> Boot:
        started = time.monotonic()
        first_line_s: float | None = None
        statuses: list[int | None] = []
        while True:
            if first_line_s is None and copy.log().strip():
                first_line_s = time.monotonic() - started
            status = ping_status(copy.url)
            if not statuses or statuses[-1] != status:
                statuses.append(status)
            problem = self._problem(copy, started)
            if status == 200 or problem:
                break
            time.sleep(_POLL_S)
        if status != 200:
            return Boot(first_line_s, None, tuple(statuses), None, None, problem)
        ready_s = time.monotonic() - started
        first_line_s = ready_s if first_line_s is None and copy.log().strip() else first_line_s
        return Boot(first_line_s, ready_s, tuple(statuses), self._first_use(copy), ping_status(copy.url))

    def _first_use(self, copy: Copy) -> int | None:
        with Subject(copy.url, self._wishes) as subject:
            shape = subject.shape or known_shapes(None)[0]
            try:
                return subject.ask("POST", "/invocations", json.dumps(shape.body).encode(), {"content-type": "application/json"}).status
            except Failed:
                return None

    def _problem(self, copy: Copy, started: float) -> str:
        if (status := copy.exit_status()) is not None:
            return f"the container ended with status {status}: {last_line(copy.log())}"
        if time.monotonic() - started > self.patience_s:
            return f"/ping is not 200 after {self.patience_s:g} s (--startup-timeout); the last line: {last_line(copy.log())}"
        return ""


def ping_status(url: str) -> int | None:
    """None without an answer in time."""
    try:
        return int(httpx2.get(f"{url}/ping", timeout=_PING_TIMEOUT_S, trust_env=False).status_code)
    except httpx2.HTTPError:
        return None


def last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return cut(lines[-1].strip(), _LAST_LINE_LENGTH) if lines else "(the log is empty)"


def require_free_default_port() -> None:
    """Raises Skipped where something of this machine listens on 8080."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", DEFAULT_PORT))
        except OSError as error:
            raise Skipped(f"port {DEFAULT_PORT} of this machine is taken, and the copy would share it") from error
