"""A container's program that serves /ping, /invocations and /adapters, and misbehaves as its environment says. Run as a script.

MODE: ready (default) | never | dies | stubborn (ignores SIGTERM) | child (starts a process in a session of its own).
State on disk that tests look at or change: BAD_PING names a file that turns pings bad while it is there; PIDS one that each start adds
its process ids to; ADAPTERS one that each call to /adapters is written to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("MODE", "ready")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        bad = os.environ.get("BAD_PING")
        self._answer(503 if MODE == "never" or (bad and Path(bad).exists()) else 200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/adapters":
            fields = json.loads(body)
            if not Path(fields["src"], "adapter_config.json").exists():
                return self._answer(400, b'{"error": "there is no adapter_config.json"}')
            self._note(f"POST {fields['name']} {os.getpid()}")
            return self._answer(200, b"{}")
        if body.startswith(b"wait"):
            time.sleep(float(body[4:]))
        facts = {"pid": os.getpid(), "environ": dict(os.environ), "model": _model_files()}
        return self._answer(200, json.dumps(facts).encode())

    def do_DELETE(self) -> None:
        self._note(f"DELETE {self.path.rpartition('/')[2]} {os.getpid()}")
        self._answer(200, b"{}")

    def _note(self, line: str) -> None:
        with Path(os.environ["ADAPTERS"]).open("a") as notes:
            notes.write(line + "\n")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


def _model_files() -> list[str]:
    directory = os.environ.get("SAGEMAKER_MODEL_PATH")
    return sorted(os.listdir(directory)) if directory else []


def main() -> None:
    print("begins with", *sys.argv[1:], flush=True)
    pids = [os.getpid()]
    if MODE == "child":
        pids.append(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    if path := os.environ.get("PIDS"):
        with Path(path).open("a") as file:
            file.write("".join(f"{pid}\n" for pid in pids))
    if MODE == "dies":
        print("ValueError: the weights are of another model", flush=True)
        sys.exit(3)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    ThreadingHTTPServer(("", port), _Handler).serve_forever()


if __name__ == "__main__":
    main()
