"""Options about keys and values that leave the engine, or come to it from another server."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway.server.config.fields import Topic, option

_DEFAULT_PEERS = ("localhost", "127.0.0.0/8", "::1")
_CONNECTORS = ("NixlConnector",)
_UNUSED = ("kv_buffer_size", "kv_connector_module_path", "kv_ip", "kv_parallel_size", "kv_port", "kv_rank")  # of vLLM's other connectors


class NixlSettings(BaseModel):
    """``kv_connector_extra_config`` of the NixlConnector."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backends: list[str] = Field(default=["UCX"], min_length=1)  # NIXL's, by name
    allowed_peers: list[str] = list(_DEFAULT_PEERS)  # where a request may have its KV fetched from: a host, an address or a network
    key_file: str | None = None  # what both servers prove to know
    checksum: bool = False  # compare what arrived with what was sent


class KVTransferSettings(BaseModel):
    """The JSON of --kv-transfer-config, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kv_connector: Literal["NixlConnector"]
    kv_role: Literal["kv_producer", "kv_consumer", "kv_both"]
    engine_id: str | None = Field(default=None, min_length=1, max_length=200)
    kv_buffer_device: Literal["cpu", "cuda"] | None = None
    kv_load_failure_policy: Literal["fail", "recompute"] = "fail"
    kv_connector_extra_config: NixlSettings = NixlSettings()

    @property
    def keeps(self) -> bool:
        """Whether requests may ask that their KV is kept for another server."""
        return self.kv_role != "kv_consumer"

    @property
    def fetches(self) -> bool:
        """Whether requests may have their KV fetched from another server."""
        return self.kv_role != "kv_producer"

    def may_fetch_from(self, host: str) -> bool:
        """A request is from anybody: only where the operator allows it does a server connect to what it names."""
        return any(_is_within(host, peer) for peer in self.kv_connector_extra_config.allowed_peers)


class KVTransferConfig(Topic):
    """KV transfer."""

    kv_transfer_config: dict[str, Any] = option(
        {},
        "JSON: move keys and values between servers. `kv_connector` (NixlConnector), `kv_role` (kv_producer, kv_consumer or kv_both), "
        "`kv_load_failure_policy` (fail or recompute), `engine_id`, `kv_buffer_device`, `kv_connector_extra_config`: see "
        "disaggregation.md.",
    )
    nixl_side_channel_host: str = option(
        "localhost",
        "Where a prefill server hears what decode servers want, as they are told it: a name or an address of this machine.",
        environment=("VLLM_NIXL_SIDE_CHANNEL_HOST",),
    )
    nixl_side_channel_port: int = option(
        5600,
        "The port for that; engine and rank are added to it, so that each has its own.",
        ge=1024,
        le=65535,
        environment=("VLLM_NIXL_SIDE_CHANNEL_PORT",),
    )
    nixl_abort_request_timeout: int = option(
        480,
        "Seconds for which a prefill server keeps a prompt's KV for a decode server that does not come.",
        ge=1,
        environment=("VLLM_NIXL_ABORT_REQUEST_TIMEOUT",),
    )

    @property
    def settings(self) -> KVTransferSettings | None:
        """None: nothing is moved. To be asked once ``kv_transfer_problems`` has found nothing."""
        return KVTransferSettings.model_validate(self.kv_transfer_config) if self.kv_transfer_config else None


def kv_transfer_problems(transfer: KVTransferConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    asked = transfer.kv_transfer_config
    if not asked:
        return []
    connector = asked.get("kv_connector")
    if connector not in _CONNECTORS:
        return [f"--kv-transfer-config: kv_connector must be {' or '.join(_CONNECTORS)}, got {connector!r}"]
    unused = sorted(set(asked) & set(_UNUSED))
    if unused:
        return [f"--kv-transfer-config: {name} has no meaning for {connector}: leave it out" for name in unused]
    try:
        KVTransferSettings.model_validate(asked)
    except ValidationError as problem:
        return [f"--kv-transfer-config: {_sentence(error)}" for error in problem.errors()]
    return []


def kv_transfer_warnings(transfer: KVTransferConfig) -> list[str]:
    if not transfer.kv_transfer_config or kv_transfer_problems(transfer):
        return []
    settings, host = KVTransferSettings.model_validate(transfer.kv_transfer_config), transfer.nixl_side_channel_host
    is_alone = any(_is_within(host, peer) for peer in _DEFAULT_PEERS)
    if is_alone or not settings.keeps or settings.kv_connector_extra_config.key_file is not None:
        return []
    return [
        f"whoever reaches --nixl-side-channel-host {host} may ask for KV, though not without a request's token: name a key_file in "
        "kv_connector_extra_config at both servers, and keep the network between them private"
    ]


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        model = NixlSettings if "." in where else KVTransferSettings
        return f"{where!r} is none of its keys ({', '.join(model.model_fields)}): leave it out"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}"


def _is_within(host: str, peer: str) -> bool:
    if host == peer:
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(peer, strict=False)
    except ValueError:
        return False  # one of them is a name
