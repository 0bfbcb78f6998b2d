"""A request's kv_transfer_params, as the engine takes them; and an answer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headway.server.api.json_text import encode
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.kv_transfer import KVTransferParams
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.config.kv_transfer import KVTransferConfig, KVTransferSettings
from headway.server.errors import RequestError
from headway.server.types import KVSource, KVTransfer
from headway.server.words import plural

_PARAM = "kv_transfer_params"


def transfer_of(request: GenerationFields, config: KVTransferConfig, num_prompts: int) -> KVTransfer | None:
    """None: the request stays on this server. Raises RequestError for what this server does not do."""
    params = request.kv_transfer_params
    if params is None or not (params.do_remote_decode or params.do_remote_prefill or params.announce):
        return None
    settings = config.settings
    if settings is None:
        raise RequestError("kv_transfer_params is for servers with --kv-transfer-config: leave it out.", _PARAM)
    _check(request, params, settings, num_prompts)
    return KVTransfer(params.do_remote_decode, params.announce, _source_of(params, settings) if params.do_remote_prefill else None)


def _check(request: GenerationFields, params: KVTransferParams, settings: KVTransferSettings, num_prompts: int) -> None:
    if num_prompts > 1:
        raise RequestError(f"kv_transfer_params is for one prompt, and there are {num_prompts}: send a request for each.", _PARAM)
    if request.use_beam_search:
        raise RequestError("Beam search does not go with kv_transfer_params: leave out one of them.", "use_beam_search")
    if params.do_remote_decode and not settings.keeps:
        raise RequestError("This server is a kv_consumer and keeps no KV for others: leave out do_remote_decode.", _PARAM)
    if params.do_remote_decode and request.stream and not params.announce:
        raise RequestError("A stream has no place for the kv_transfer_params of its answer: set stream to false, or announce.", "stream")
    if params.announce and not params.do_remote_decode:
        raise RequestError("Only what is kept here can be announced: leave out announce, or set do_remote_decode.", _PARAM)
    if params.do_remote_prefill and not settings.fetches:
        raise RequestError("This server is a kv_producer and fetches no KV: leave out do_remote_prefill.", _PARAM)


def _source_of(params: KVTransferParams, settings: KVTransferSettings) -> KVSource:
    token, host, port = params.remote_request_id, params.remote_host, params.remote_port
    if token is None or host is None or port is None:
        raise RequestError(
            "With do_remote_prefill remote_request_id, remote_host and remote_port must be those of the prefill server's answer.", _PARAM
        )
    hosts = tuple(params.remote_hosts or ())
    if hosts and len(hosts) != params.tp_size:
        raise RequestError(f"remote_hosts names {plural(len(hosts), 'host')} for a tp_size of {params.tp_size}: give as many.", _PARAM)
    for name, each in (("remote_host", host), *(("remote_hosts", other) for other in hosts)):
        if not settings.may_fetch_from(each):
            raise RequestError(
                f"This server may not fetch KV from {each!r}: its operator has to name that in allowed_peers of --kv-transfer-config.",
                f"{_PARAM}.{name}",
            )
    return KVSource(params.remote_engine_id or "", token, host, port, params.tp_size, hosts=hosts)


def answered_transfer(choices: Sequence[ChoiceDelta]) -> dict[str, Any] | None:
    """What a request to the server that decodes has to say for the KV that is kept here; None: none is."""
    source = next((choice.kv_source for choice in choices if choice.kv_source is not None), None)
    return None if source is None else _told(source)


def announcement(source: KVSource) -> bytes:
    """The chunk, of any family's stream, that says where the prompt's KV will be."""
    return encode({"choices": [], "kv_transfer_params": _told(source)})


def _told(source: KVSource) -> dict[str, Any]:
    told: dict[str, Any] = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": list(source.block_ids),
        "remote_engine_id": source.engine_id,
        "remote_request_id": source.token,
        "remote_host": source.host,
        "remote_port": source.port,
        "tp_size": source.num_ranks,
    }
    return told | {"remote_hosts": list(source.hosts)} if source.hosts else told
