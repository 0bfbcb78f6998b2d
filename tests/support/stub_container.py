"""A stub_contract.Stub as what an image would start: `stub_container.py [serve]`, its fault in STUB_FAULT. For tests of copies.

StubEngine starts it as the Docker engine starts a container: with ports of its own, a user, a root that may be read-only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from stub_contract import KEY, Stub

PUBLISHED, FAULT, HOST = "STUB_PUBLISHED", "STUB_FAULT", "STUB_HOST"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The stub has its own."""
        yield


def main(words: list[str]) -> None:
    fault, environ = os.environ.get(FAULT, ""), os.environ
    if fault != "start.first-line":
        print("stub starts", flush=True)
    if fault == "secrets.log":
        print(environ.get("HF_TOKEN"), flush=True)
    if fault == "secrets.command-line" and "HF_TOKEN" in environ and "--token" not in words:
        os.execv(sys.executable, [sys.executable, __file__, *words, "--token", environ["HF_TOKEN"]])
    _refuse_some(fault, words)
    asyncio.run(_serve(fault, _port(fault)))


def _refuse_some(fault: str, words: list[str]) -> None:
    host = json.loads(os.environ.get(HOST, "{}"))
    refuses = (
        (fault == "start.serve" and "serve" in words)
        or (fault == "start.no-word" and not words)
        or (fault == "start.foreign-variables" and "SM_CONFORMANCE_UNKNOWN" in os.environ)
        or (fault == "isolation.read-only" and host.get("is_read_only"))
        or (fault == "isolation.any-user" and host.get("user"))
        or (fault == "isolation.no-network" and host.get("is_offline"))
    )
    if refuses:
        sys.exit(3)
    if os.environ.get("SM_VLLM_MAX_NUM_SEQS") == "many":
        print("ended" if fault == "start.bad-option-reason" else "error: SM_VLLM_MAX_NUM_SEQS: expected a number", flush=True)
        sys.exit(0 if fault == "start.bad-option-exits" else 2)


def _port(fault: str) -> int:
    """Of this machine. A container's port that is not published can't be reached."""
    own = 8081 if fault == "image.default-port" else 8080
    if fault != "image.bind-to-port":
        own = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", own))
    published = json.loads(os.environ.get(PUBLISHED, "{}"))
    return int(published.get(str(own), 0)) if published else own


async def _serve(fault: str, port: int) -> None:
    stub = Stub(fault, key=os.environ.get("SM_VLLM_API_KEY", KEY))
    stub.piece_s = 1.6 if fault == "stop.ping" else 0.2
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = _Server(uvicorn.Config(stub, log_level="error"))

    async def drain() -> None:
        while stub.num_running:
            await asyncio.sleep(0.01)
        server.should_exit = True

    def stop() -> None:
        stub.is_draining = True
        tasks.append(asyncio.ensure_future(drain()))

    tasks: list[asyncio.Future[None]] = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await server.serve(sockets=[listener])
    if fault == "stop.exits":
        sys.exit(1)


SCRIPT = Path(__file__)

if __name__ == "__main__":
    main(sys.argv[1:])
