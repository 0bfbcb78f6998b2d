"""What --kv-transfer-config says of KV offload: where copies of blocks are kept, and how many bytes of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class OffloadPlaces(BaseModel):
    """``kv_connector_extra_config`` of the OffloadingConnector. Bytes are of an engine, over all of its ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    spec_name: Literal["CPUOffloadingSpec"] = "CPUOffloadingSpec"
    block_size: int | None = None  # --block-size, if given
    cpu_bytes_to_use: int = Field(default=0, ge=0)
    disk_path: str | None = Field(default=None, min_length=1)
    disk_bytes_to_use: int = Field(default=0, ge=0)


class OffloadSettings(BaseModel):
    """The JSON of --kv-transfer-config, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_connector: Literal["OffloadingConnector"]
    kv_role: Literal["kv_both"]
    kv_load_failure_policy: Literal["recompute"] = "recompute"
    kv_connector_extra_config: OffloadPlaces = OffloadPlaces()


def offload_problems(settings: OffloadSettings) -> list[str]:
    """A sentence for each thing that can't be served."""
    asked = settings.kv_connector_extra_config
    if (asked.disk_path is None) != (asked.disk_bytes_to_use == 0):
        return ["--kv-transfer-config: disk_path and disk_bytes_to_use, the bytes it may hold, go together: give both or neither"]
    if not asked.cpu_bytes_to_use and asked.disk_path is None:
        return ["--kv-transfer-config: OffloadingConnector needs a place: set cpu_bytes_to_use, or disk_path with disk_bytes_to_use"]
    return []
