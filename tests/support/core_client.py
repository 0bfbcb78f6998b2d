"""An EngineClient over a real EngineCore in this process: for what the API builds of many requests, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headway.server.engine.client import DeltaStream
from headway.server.engine.core import EngineCore
from headway.server.engine.request_stream import RequestStream
from headway.server.types import EngineInfo, GenerateRequest


class CoreClient:
    """The part of EngineClient that generates. ``num_requests`` counts what was admitted, ``num_tokens`` what was computed."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._streams: dict[str, RequestStream] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self.num_requests = 0
        self.num_tokens = 0

    @property
    def info(self) -> EngineInfo:
        return self._core.info

    def generate(self, requests: Sequence[GenerateRequest]) -> list[DeltaStream]:
        self.num_requests += len(requests)
        streams: list[DeltaStream] = []
        for request in requests:
            self._streams[request.request_id] = stream = RequestStream(request.request_id, self._close)
            self._core.add_request(request)
            streams.append(stream)
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run())
        return streams

    async def _run(self) -> None:
        while self._core.has_work:
            output = self._core.step()
            self.num_tokens += output.stats.last_step_tokens
            for delta in output.deltas:
                if (stream := self._streams.get(delta.request_id)) is not None:
                    stream.put(delta)
            await asyncio.sleep(0)

    def _close(self, request_id: str, finished: bool) -> None:
        if self._streams.pop(request_id, None) is not None and not finished:
            self._core.abort([request_id])
