"""What tests ask of engines that copy blocks out of the KV cache and back."""

from __future__ import annotations

from engine_driver import Output

from headway.server.engine.core import EngineCore
from headway.server.stats import OffloadStats


def tokens(outputs: list[Output]) -> list[list[int]]:
    return [output.token_ids for output in outputs]


def counts(core: EngineCore) -> OffloadStats:
    transfers = core.stats().transfers
    assert transfers is not None
    assert transfers.offload is not None
    return transfers.offload
