"""Pools texts with a real EngineCore in this process: no sockets, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.server.engine.core import EngineCore
from headway.server.types import FinishReason, PoolingParams, PoolRequest


def text(request_id: str, token_ids: Sequence[int], task: Any = "embed", *, first: int | None = None, **asked: Any) -> PoolRequest:
    """``first``: tokens of the first of two texts."""
    return PoolRequest(request_id, list(token_ids), PoolingParams(task, **asked), arrival_time=time.time(), num_first_segment=first)


def pool(engine: EngineCore, requests: Sequence[PoolRequest]) -> list[NDArray[np.float32]]:
    """The results, [rows, values] each, in the order of the requests."""
    for request in requests:
        engine.add_request(request)
    found: dict[str, NDArray[np.float32]] = {}
    while engine.has_work:
        for delta in engine.step().deltas:
            assert delta.finish_reason is FinishReason.STOP, delta.error
            assert delta.pooled is not None
            assert delta.request_id not in found, "a text has one result"
            found[delta.request_id] = np.frombuffer(delta.pooled.data, "<f4").reshape(delta.pooled.num_rows, -1)
    engine.check_idle()
    return [found[request.request_id] for request in requests]
