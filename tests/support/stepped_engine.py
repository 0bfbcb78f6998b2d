"""A real EngineCore behind the API, in the same process, which runs a step when the test says so: for what must happen within a step."""

from __future__ import annotations

from engine_driver import make_engine
from fake_engine import FakeEngine

from headway.server.engine.client import DeltaStream
from headway.server.engine.request_stream import RequestStream
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import EngineStats, GenerateRequest


class SteppedEngine(FakeEngine):
    """``files`` is a model with ``tokenizer``'s vocabulary. Everything is called on the API's event loop."""

    def __init__(self, tokenizer: Tokenizer, files: ModelFiles) -> None:
        super().__init__(tokenizer)
        self._core = make_engine(files, model={"max_model_len": 256})
        self._streams: dict[str, RequestStream] = {}
        self.info = self._core.info

    def _open(self, request: GenerateRequest) -> DeltaStream:
        self.requests.append(request)
        self.open_ids.add(request.request_id)
        self._core.add_request(request)
        stream = self._streams[request.request_id] = RequestStream(request.request_id, self._close)
        return stream

    def _close(self, request_id: str, has_ended: bool) -> None:
        """As ProcessEngineClient does, whose messages reach the engine before its next step."""
        if self._streams.pop(request_id, None) is not None:
            self.open_ids.discard(request_id)
            if not has_ended:
                self.aborted_ids.append(request_id)
                self._core.abort([request_id])

    def step(self) -> EngineStats:
        output = self._core.step()
        for delta in output.deltas:
            if (stream := self._streams.get(delta.request_id)) is not None:
                stream.put(delta)
        self.stats = output.stats
        if not self._core.has_work:
            self._core.check_idle()
        return output.stats
