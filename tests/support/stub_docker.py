"""A Docker engine's API as far as container/conformance asks it, whose containers never run: they have a state, labels and a log."""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

IMAGE = "stub"


class StubDocker:
    """A context manager; ``environ`` leads to it. A container that is started has ended already, with ``exit_status`` and ``log``."""

    def __init__(self, *, exit_status: int = 3, log: bytes = b"") -> None:
        self.exit_status, self.log = exit_status, log
        self.refuses_start = False
        self.labels: dict[str, dict[str, str]] = {}

    def __enter__(self) -> StubDocker:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Handler(self, *given))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.environ = {"DOCKER_HOST": f"tcp://127.0.0.1:{self._server.server_address[1]}"}
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """A status with what is sent: bytes, or what becomes JSON."""
        routes: list[tuple[str, Callable[[str], tuple[int, Any]]]] = [
            (r"GET /version", lambda _: (200, {"ApiVersion": "1.44"})),
            (rf"GET /images/{IMAGE}/json", lambda _: (200, {"Id": "sha256:0", "Config": {"Labels": {}, "Entrypoint": ["/serve"]}})),
            (
                r"GET /containers/json",
                lambda _: (200, [{"Id": key} for key, labels in self.labels.items() if self._asked(query) in labels]),
            ),
            (r"POST /containers/create", lambda _: self._create(body)),
            (r"POST /containers/(\w+)/start", lambda _: (500, {"message": "no room"}) if self.refuses_start else (204, b"")),
            (r"GET /containers/(\w+)/json", self._inspect),
            (r"GET /containers/(\w+)/logs", lambda _: (200, struct.pack(">BxxxL", 1, len(self.log)) + self.log)),
            (r"DELETE /containers/(\w+)", lambda key: (204, self.labels.pop(key) and b"")),
        ]
        for pattern, answer in routes:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return answer("".join(found.groups()))
        return 409, {"message": f"{method} {path} is not possible"}

    def _asked(self, query: dict[str, list[str]]) -> str:
        label: str = json.loads(query["filters"][0])["label"][0]
        return label

    def _create(self, body: Any) -> tuple[int, Any]:
        key = f"c{len(self.labels)}"
        self.labels[key] = body["Labels"]
        return 201, {"Id": key}

    def _inspect(self, key: str) -> tuple[int, Any]:
        state = {"Status": "exited", "ExitCode": self.exit_status}
        config = {"Labels": self.labels[key], "Tty": False}
        return 200, {"Id": key, "State": state, "Config": config, "NetworkSettings": {"Ports": {}}}


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, stub: StubDocker, *given: Any) -> None:
        self._stub = stub
        super().__init__(*given)

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = re.sub(r"^/v[\d.]+", "", parts.path)
        status, body = self._stub.answer(self.command, path, parse_qs(parts.query), json.loads(content or b"null"))
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Tests have no use for it."""
