"""Options about keys and values that leave the engine's cache, or come to it from elsewhere."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway.server.config.fields import Topic, option
from headway.server.config.json_problems import key_of, sentence_of
from headway.server.config.kv_offload import OffloadPlaces, OffloadSettings, offload_problems
from headway.server.words import first_few

_DEFAULT_PEERS = ("localhost", "127.0.0.0/8", "::1")
_NIXL, _OFFLOADING = _CONNECTORS = ("NixlConnector", "OffloadingConnector")
_GIB = 1 << 30
MAX_RANKS = 64  # of a server that others read from, or that reads
HIGHEST_SIDE_CHANNEL_PORT = 65535 - MAX_RANKS  # that a request may name: those of further ranks are behind it
_HOST_NAME = re.compile(r"([A-Za-z0-9_-]+\.)*(?=[0-9-]*[A-Za-z_])[A-Za-z0-9_-]+\.?")  # its last part is no number
_UNUSED = ("kv_buffer_size", "kv_connector_module_path", "kv_ip", "kv_parallel_size", "kv_port", "kv_rank")  # of vLLM's other connectors


class NixlSettings(BaseModel):
    """``kv_connector_extra_config`` of the NixlConnector."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backends: list[str] = Field(default=["UCX"], min_length=1)  # NIXL's, by name
    allowed_peers: list[str] = list(_DEFAULT_PEERS)  # where a request may have its KV fetched from: a host, an address or a network
    key_file: str | None = None  # what both servers prove to know
    checksum: bool = False  # compare what arrived with what was sent


class KVTransferSettings(BaseModel):
    """The JSON of --kv-transfer-config for the NixlConnector, checked."""

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
        "JSON: move keys and values between servers, or out of the cache and back. `kv_connector` (NixlConnector: see disaggregation.md; "
        "OffloadingConnector: see kv-offload.md), `kv_role` (kv_producer, kv_consumer or kv_both), `kv_load_failure_policy` (fail or "
        "recompute), `engine_id`, `kv_buffer_device`, `kv_connector_extra_config`.",
    )
    kv_offloading_size: float = option(
        0,
        "GiB of the host's memory, of an engine over all of its ranks, for copies of KV blocks: see kv-offload.md.",
        ge=0,
    )
    nixl_side_channel_host: str = option(
        "localhost",
        "Where a prefill server hears what decode servers want, as they are told it: a name or an address of this machine. Ranks on other "
        "hosts of a Ray cluster do at the address that the cluster knows their host by.",
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
        """None: nothing is moved between servers. To be asked once ``kv_transfer_problems`` has found nothing, as ``offload``."""
        asked = self.kv_transfer_config
        return KVTransferSettings.model_validate(asked) if asked.get("kv_connector") == _NIXL else None

    @property
    def offload(self) -> OffloadSettings | None:
        """None: no block is copied out of the cache."""
        asked = self.kv_transfer_config or {"kv_connector": _OFFLOADING, "kv_role": "kv_both"}
        if asked.get("kv_connector") != _OFFLOADING or not (self.kv_transfer_config or self.kv_offloading_size):
            return None
        settings = OffloadSettings.model_validate(asked)
        if not self.kv_offloading_size:
            return settings
        places = settings.kv_connector_extra_config.model_copy(update={"cpu_bytes_to_use": math.ceil(self.kv_offloading_size * _GIB)})
        return settings.model_copy(update={"kv_connector_extra_config": places})

    @property
    def offload_bytes(self) -> int:
        """Of the host's memory, by an engine."""
        return 0 if self.offload is None else self.offload.kv_connector_extra_config.cpu_bytes_to_use


def kv_transfer_problems(transfer: KVTransferConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    asked = transfer.kv_transfer_config
    if asked and (found := _json_problems(asked)):
        return found
    if transfer.kv_offloading_size and transfer.settings is not None:
        return ["--kv-offloading-size does not go with the NixlConnector: a server has one connector"]
    if transfer.offload is None:
        return []
    if transfer.kv_offloading_size and "cpu_bytes_to_use" in asked.get("kv_connector_extra_config", {}):
        return ["--kv-offloading-size and cpu_bytes_to_use of --kv-transfer-config are the same: give one"]
    return offload_problems(transfer.offload)


def _json_problems(asked: dict[str, Any]) -> list[str]:
    connector = asked.get("kv_connector")
    if connector not in _CONNECTORS:
        return [f"--kv-transfer-config: kv_connector must be {' or '.join(_CONNECTORS)}, got {connector!r}"]
    unused = sorted(set(asked) & set(_UNUSED))
    if unused:
        return [f"--kv-transfer-config: {name} has no meaning for {connector}: leave it out" for name in unused]
    try:
        settings = (KVTransferSettings if connector == _NIXL else OffloadSettings).model_validate(asked)
    except ValidationError as problem:
        return [f"--kv-transfer-config: {_sentence(error, connector)}" for error in problem.errors()]
    if not isinstance(settings, KVTransferSettings):
        return []
    strange = [peer for peer in settings.kv_connector_extra_config.allowed_peers if not _is_peer(peer)]
    wanted = "a host's name, an address or a network such as 10.0.0.0/24"
    return [f"--kv-transfer-config: kv_connector_extra_config.allowed_peers: each must be {wanted}, got {peer!r}" for peer in strange]


def kv_transfer_warnings(transfer: KVTransferConfig, uses_ray: bool = False) -> list[str]:
    """``uses_ray``: ranks may be on other hosts."""
    if kv_transfer_problems(transfer) or (settings := transfer.settings) is None:
        return []
    if settings.kv_connector_extra_config.key_file is not None:
        return []
    return [
        *(_of_what_is_kept(transfer.nixl_side_channel_host, uses_ray=uses_ray) if settings.keeps else ()),
        *(_of_what_is_fetched(settings) if settings.fetches else ()),
    ]


def _of_what_is_kept(host: str, *, uses_ray: bool) -> list[str]:
    is_alone = any(_is_within(host, here) for here in _DEFAULT_PEERS)
    where = f"--nixl-side-channel-host {host}" if not is_alone else "other hosts of the Ray cluster, where ranks listen at their addresses,"
    if is_alone and not uses_ray:
        return []
    return [
        f"whoever reaches {where} may ask for KV, though not without a request's token: name a key_file in "
        "kv_connector_extra_config at both servers, and keep the network between them private"
    ]


def _of_what_is_fetched(settings: KVTransferSettings) -> list[str]:
    peers = settings.kv_connector_extra_config.allowed_peers
    elsewhere = [peer for peer in peers if not any(_is_within(peer, here) for here in _DEFAULT_PEERS)]
    if not elsewhere:
        return []
    return [
        f"any process on {first_few(elsewhere)} of allowed_peers may answer with KV of its own making, which the prefix cache gives to "
        "other requests: name a key_file in kv_connector_extra_config at both servers"
    ]


def _sentence(error: Any, connector: str) -> str:
    outer, inner = (KVTransferSettings, NixlSettings) if connector == _NIXL else (OffloadSettings, OffloadPlaces)
    model: type[BaseModel] = inner if "." in key_of(error) else outer
    return sentence_of(error, model)


def _is_peer(peer: str) -> bool:
    """Whether it can be any host's: what is mistyped would allow nothing, and only requests would be told of it."""
    try:
        ipaddress.ip_network(peer, strict=False)
    except ValueError:
        return _HOST_NAME.fullmatch(peer) is not None
    return True


def _is_within(host: str, peer: str) -> bool:
    if host == peer:
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(peer, strict=False)
    except ValueError:
        return False  # one of them is a name
