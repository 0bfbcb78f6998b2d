"""The parameters of the routes that stop and start the engine; they come in the query."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headway.server.api.protocol.base import RequestModel
from headway.server.errors import RequestError
from headway.server.types import SleepMode, SleepPart


class SleepRequest(RequestModel):
    level: int = Field(1, ge=0, le=2, description="0: stop scheduling only; 1: free the KV cache, offload weights; 2: discard both.")
    mode: SleepMode = Field("abort", description="What becomes of open requests.")


class WakeUpRequest(RequestModel):
    tags: list[SleepPart] | None = Field(None, description="What to wake; left out: everything.")


class PauseRequest(RequestModel):
    mode: SleepMode = Field("abort", description="What becomes of open requests.")
    clear_cache: bool = Field(True, description="Empty the prefix cache too.")


class ResetPrefixCacheRequest(RequestModel):
    reset_running_requests: bool = Field(False, description="Preempt what runs, so that no block of before is in use.")
    reset_external: bool = Field(False, description="Copies of blocks outside the cache stay as they are, so true is refused.")

    def check(self) -> None:
        if self.reset_external:
            raise RequestError("Copies of blocks outside the cache are not forgotten: leave reset_external out.", "reset_external")


class ServerInfoRequest(RequestModel):
    config_format: Literal["text", "json"] = "text"


class NoParameters(RequestModel):
    pass
