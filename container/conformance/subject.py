"""The server under test: where it is, how it is asked, what its model takes."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx2

from headway.container.conformance.exchange import Exchange, exchange
from headway.container.conformance.outcome import CheckEnded, Failed
from headway.container.conformance.shapes import Shape, known_shapes
from headway.server.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says about the server: its API key, a request of its own, an adapter as the container sees it, a limit in seconds."""

    api_key: str | None = None
    shape: Shape | None = None
    adapter: str | None = None
    timeout_s: float = 60.0


class Subject:
    """Thread-safe. Each request has a connection of its own, as a probe has; proxies of the environment don't count."""

    def __init__(self, url: str, wishes: Wishes) -> None:
        self.url = url
        self.wishes = wishes
        self.secrets = (wishes.api_key,) if wishes.api_key else ()
        self.shape_trials: list[str] = []
        self._tls = ssl.create_default_context() if url.startswith("https:") else None
        self._client = httpx2.Client(
            base_url=url,
            timeout=wishes.timeout_s,
            trust_env=False,
            verify=self._tls or False,
            headers={"accept-encoding": "identity", "user-agent": "headway-conformance"},
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def websocket_url(self) -> str:
        return f"ws{self.url.removeprefix('http')}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self._tls

    @property
    def key_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.wishes.api_key}"} if self.wishes.api_key else {}

    def ask(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str], *, with_key: bool = True, timeout_s: float | None = None
    ) -> Exchange:
        """Raises Failed where there is no answer."""
        return exchange(self._client, method, path, content, {**(self.key_headers if with_key else {}), **headers}, timeout_s)

    def open_stream(self, body: Any) -> Any:
        """An invocation whose answer the caller reads, or leaves: a context manager of httpx2's."""
        return self._client.stream("POST", "/invocations", json=body, headers=self.key_headers)

    @cached_property
    def shape(self) -> Shape | None:
        """The first request that the model answers; None if there is none, with ``shape_trials`` to say why."""
        if self.wishes.shape is not None:
            return self.wishes.shape
        if (shape := self._first_answered(known_shapes(None))) is not None:
            return shape
        name = self._first_model()  # some servers want one in each request
        return None if name is None else self._first_answered(known_shapes(name))

    def _first_answered(self, shapes: list[Shape]) -> Shape | None:
        for shape in shapes:
            try:
                answer = self.ask("POST", "/invocations", json.dumps(shape.body).encode(), {"content-type": "application/json"})
            except Failed as failed:
                self.shape_trials.append(str(failed))
                continue
            self.shape_trials.append(answer.evidence)
            if answer.status == 200:
                return shape
        return None

    def _first_model(self) -> str | None:
        """Of /v1/models."""
        try:
            answer = self.ask("GET", "/v1/models", b"", {})
            return str(answer.json()["data"][0]["id"])
        except (CheckEnded, LookupError, TypeError):
            return None


def checked_url(text: str) -> str:
    """A base address without a slash at its end. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise ConfigError([f"{text!r}: expected an address such as http://127.0.0.1:8080: SageMaker's routes stand at the root of a port"])
    return text.rstrip("/")
