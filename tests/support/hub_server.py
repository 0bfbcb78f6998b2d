"""A Hub on this machine: serves repositories from memory, as much of its HTTP interface as the client library uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repositories`: id -> file name -> content. `gated`: ids that need the token "good". `requests`: what was asked, in order."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    status: int = 200
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0].strip("/")
        is_api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        if hub.status != 200:
            return self._answer(hub.status, b"{}")
        if repo not in hub.repositories:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repo in hub.gated and self.headers.get("Authorization") != "Bearer good":
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        files = hub.repositories[repo]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if is_api and rest and rest[0] == "tree":
            entries = [{"type": "file", "path": name, "size": len(files[name]), "oid": _etag(files[name])} for name in files]
            return self._answer(200, json.dumps(entries).encode())
        if is_api:
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name, "size": len(files[name])} for name in files]}
            return self._answer(200, json.dumps(info).encode())
        content = files["/".join(rest[2:])]
        return self._answer(200, content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No log in a test."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
