"""What stands before a prefill and a decode server: asks the one, hands its kv_transfer_params to the other."""

from __future__ import annotations

from functools import cache
from typing import Any

import httpx
from live_server import LiveServer
from ports import claimed_port


@cache
def client() -> httpx.Client:
    """One for all: each that is made reads the certificates of the system, which takes longer than a request."""
    return httpx.Client(timeout=60)


def config_of(role: str, policy: str = "fail", **extra: Any) -> dict[str, Any]:
    return {
        "kv_connector": "NixlConnector",
        "kv_role": role,
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": {"checksum": True, **extra},
    }


def side_channel() -> dict[str, str]:
    """The environment of a server with a port of its own."""
    return {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(claimed_port())}


def prefilled(server: LiveServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """kv_transfer_params for the server that decodes."""
    one = body | {"max_tokens": 1, "stream": False, "n": 1, "kv_transfer_params": {"do_remote_decode": True}}
    one.pop("stream_options", None)
    answer = client().post(f"{server.url}{path}", json=one)
    assert answer.status_code == 200, answer.text
    params = answer.json()["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    return dict(params)


def decoded(server: LiveServer, path: str, body: dict[str, Any], params: dict[str, Any]) -> httpx.Response:
    return client().post(f"{server.url}{path}", json=body | {"kv_transfer_params": params})
