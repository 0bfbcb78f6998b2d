"""ECR on this machine: moto's server. Repositories can be said to be elsewhere, and an operation be answered otherwise."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx
from moto_server import KEYS, REGION, environment, running_moto

_AWS_REGISTRY = re.compile(rb"123456789012\.dkr\.ecr\.us-east-1\.amazonaws\.com")


@dataclass
class EcrServer:
    """``registry``: where repositories are said to be. ``answers``: what an operation says instead, one after the other, the last for
    ever: (status, body). ``requests``: what was asked, and the body."""

    url: str
    client: Any
    registry: str | None = None
    login: str = "AWS:secret-password"
    answers: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return environment("ECR", self.url)

    @property
    def asked(self) -> list[str]:
        return [operation for operation, _ in self.requests]

    def refuse(self, operation: str, code: str, message: str = "no") -> None:
        self.answers[operation] = [(400, {"__type": code, "message": message})]

    def reset(self) -> None:
        httpx.post(f"{self.url}/moto-api/reset")
        self.registry = None
        self.answers.clear()
        self.requests.clear()


@contextlib.contextmanager
def running_ecr() -> Iterator[EcrServer]:
    with running_moto() as (url, wsgi):
        ecr = EcrServer(url, boto3.client("ecr", endpoint_url=url, region_name=REGION, **KEYS))
        wsgi.app = _Directed(ecr, wsgi.app)
        try:
            yield ecr
        finally:
            ecr.client.close()


@dataclass
class _Directed:
    ecr: EcrServer
    app: Any

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        if operation:
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
            environ["wsgi.input"] = _Again(body)
            self.ecr.requests.append((operation, json.loads(body or b"{}")))
        answers = self.ecr.answers.get(operation, [])
        if answers:
            status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return _sent(status, answer, start_response)
        if operation == "GetAuthorizationToken" and self.ecr.registry:
            token = base64.b64encode(self.ecr.login.encode()).decode()
            return _sent(200, {"authorizationData": [{"authorizationToken": token}]}, start_response)
        return self._moto(environ, start_response)

    def _moto(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        told: list[tuple[str, list[tuple[str, str]]]] = []
        text = b"".join(self.app(environ, lambda status, headers, exc=None: told.append((status, headers))))
        if self.ecr.registry:
            text = _AWS_REGISTRY.sub(self.ecr.registry.encode(), text)
        status, headers = told[0]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(text)))])
        return [text]


@dataclass
class _Again:
    """A body that has been read once."""

    rest: bytes

    def read(self, size: int = -1) -> bytes:
        size = len(self.rest) if size < 0 else size
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def _sent(status: int, body: Mapping[str, Any], start_response: Any) -> list[bytes]:
    start_response(f"{status} Directed", [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(body).encode()]
