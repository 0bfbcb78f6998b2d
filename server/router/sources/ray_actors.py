"""Servers that actors of a Ray cluster stand for: each has its server's address as its name, and is there as long as it lives."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from headway.server.errors import ConfigError
from headway.server.router.addresses import RAY, plain_url, url_problem
from headway.server.router.sources.changes import Changes

ASK_EVERY_S = 2.0
_AGAIN_AFTER_S = 5.0
# Ray asks a head that is gone for a minute, and then ends its process, or never returns. Its own start is part of the first answer.
_ANSWER_WITHIN_S = 45.0
_MODULE = "headway.server.router.sources.ray_names"
_MOST_SHOWN = 200
_LONGEST_LINE_BYTES = 8 * 1024 * 1024

_read_names = msgspec.json.Decoder(list[str]).decode


class RayActors:
    """See Addresses. ``namespace`` is the actors'. Raises ConfigError where Ray is not installed."""

    def __init__(self, namespace: str) -> None:
        if find_spec("ray") is None:
            raise ConfigError([f"{RAY}://{namespace} needs Ray: pip install ray, of the version that the cluster has"])
        self._namespace = namespace

    async def run(self, tell: Callable[[list[str]], object]) -> None:
        """The cluster is that of this node, or of the variable RAY_ADDRESS, which Ray reads. Who asks is a process that may die of it."""
        changes = Changes(f"{RAY}://{self._namespace}", tell)
        while True:
            try:
                changes.failed(await self._ask(changes))
            except OSError as problem:
                changes.failed(f"no process can be started to ask Ray ({problem.strerror or problem})")
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _ask(self, changes: Changes) -> str:
        """In a process of its own, until that ends or says nothing any more; returns why."""
        command = [sys.executable, "-m", _MODULE, self._namespace, str(ASK_EVERY_S)]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, limit=_LONGEST_LINE_BYTES)
        try:
            return await _listen(process, changes)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _listen(process: Process, changes: Changes) -> str:
    """Until it ends or is silent for too long; returns why, as far as it has said so."""
    assert process.stdout is not None
    assert process.stderr is not None
    last_words = asyncio.create_task(_last_line(process.stderr))
    try:
        while line := await asyncio.wait_for(process.stdout.readline(), _ANSWER_WITHIN_S):
            names = _read_names(line)
            changes.found([plain_url(name) for name in names if url_problem(name) is None])
        words = await asyncio.wait_for(last_words, _ANSWER_WITHIN_S)
        return f"Ray can't be asked ({words[:_MOST_SHOWN] or f'exit status {await process.wait()}'})"
    except TimeoutError:
        return f"Ray has not answered within {_ANSWER_WITHIN_S:g} s, as it does when the cluster's head is gone"
    except (msgspec.MsgspecError, ValueError) as problem:
        return f"what Ray says can't be read: {problem}"
    finally:
        last_words.cancel()


async def _last_line(stream: asyncio.StreamReader) -> str:
    """Of an exception that ends a process: what it is. Ray writes a good deal before that, which nobody needs."""
    last = b""
    while piece := await stream.read(65536):
        last = (last + piece)[-65536:]
    lines = last.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
