"""What a request may say of where its KV is."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.serving.kv_transfer import announcement, transfer_of
from headway.server.config.kv_transfer import KVTransferConfig
from headway.server.errors import RequestError
from headway.server.types import KVSource, KVTransfer

CONFIG = KVTransferConfig(
    kv_transfer_config={
        "kv_connector": "NixlConnector",
        "kv_role": "kv_consumer",
        "kv_connector_extra_config": {"allowed_peers": ["10.0.0.0/24"]},
    }
)
ONE_HOST = {"do_remote_prefill": True, "remote_request_id": "t", "remote_host": "10.0.0.1", "remote_port": 5600, "tp_size": 2}


def transfer(**more: Any) -> KVTransfer | None:
    body = {"prompt": "a", "kv_transfer_params": ONE_HOST | more}
    return transfer_of(CompletionRequest.model_validate(body), CONFIG, num_prompts=1)


def test_each_rank_may_have_a_host() -> None:
    found = transfer(remote_hosts=["10.0.0.1", "10.0.0.2"])
    assert found is not None
    assert found.source == KVSource("", "t", "10.0.0.1", 5600, 2, hosts=("10.0.0.1", "10.0.0.2"))
    assert b'"remote_hosts":["10.0.0.1","10.0.0.2"]' in announcement(found.source).replace(b" ", b"")
    alone = transfer()
    assert alone is not None
    assert alone.source is not None
    assert b"remote_hosts" not in announcement(alone.source)


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["10.0.0.1", "10.0.1.2"], "may not fetch KV from '10.0.1.2'"),
        (["10.0.0.1"], "remote_hosts names 1 host for a tp_size of 2"),
    ],
)
def test_hosts_are_not_believed(hosts: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        transfer(remote_hosts=hosts)


@pytest.mark.parametrize("name", ["do_remote_decode", "announce"])
def test_a_response_keeps_no_kv_that_nobody_would_hear_of(name: str) -> None:
    with pytest.raises(RequestError, match="no place for where its prompt's KV is kept"):
        parse_request(ResponsesRequest, {"input": "a", "kv_transfer_params": {name: True}})
    assert parse_request(ResponsesRequest, {"input": "a", "kv_transfer_params": ONE_HOST}).kv_transfer_params is not None
