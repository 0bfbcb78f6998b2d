"""kv_transfer_params: what a request says of a prefill for another server, or by one. The words are vLLM's."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headway.server.config.kv_transfer import HIGHEST_SIDE_CHANNEL_PORT, MAX_RANKS

_MAX_BLOCK_IDS = 1 << 20
Host = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class KVTransferParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    do_remote_decode: bool = Field(False, description="Keep the prompt's KV for another server; the answer says where.")
    announce: bool = Field(
        False,
        description="With do_remote_decode: the answer is a stream, and its first event says where the KV will be before it is computed.",
    )
    do_remote_prefill: bool = Field(False, description="Fetch the prompt's KV from where the others say, as an answer gave them.")
    remote_engine_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    remote_request_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    remote_block_ids: list[int] | None = Field(None, max_length=_MAX_BLOCK_IDS)
    remote_host: Host | None = None
    remote_port: int | None = Field(None, ge=1, le=HIGHEST_SIDE_CHANNEL_PORT)
    remote_hosts: list[Host] | None = Field(
        None, max_length=MAX_RANKS, description="Of each of its ranks, where they are not all at remote_host."
    )
    tp_size: int = Field(1, ge=1, le=MAX_RANKS, description="Ranks of the server that keeps the KV.")
