"""From options to the two sides of a NixlConnector."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path

from headway.server.config.kv_transfer import KVTransferConfig, KVTransferSettings
from headway.server.config.plan import Plan
from headway.server.distributed.sequence_share import WHOLE, SequenceShare
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.nixl.agent import Agent
from headway.server.engine.kv.transfer.nixl.keeper import Own
from headway.server.engine.kv.transfer.nixl.pages import Pages
from headway.server.engine.kv.transfer.nixl.policy import Address, NixlPolicy
from headway.server.engine.kv.transfer.nixl.wire import BlockLayout
from headway.server.engine.kv.transfer.nixl.worker import Listening, NixlWorker
from headway.server.engine.resident import Resident
from headway.server.errors import ConfigError
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles

_MIN_KEY_BYTES = 16
_SAMPLES = 16  # of a weight file, for its digest: a tuned model has the shape and the sizes of what it was made from
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank of which engine of the server this is, and what of each block is in its pages."""

    engine: int
    rank: int
    num_ranks: int
    share: SequenceShare = WHOLE

    def port(self, transfer: KVTransferConfig) -> int:
        """Each rank of each engine has its own; that of rank 0 is what others are told."""
        return transfer.nixl_side_channel_port + self.engine * self.num_ranks + self.rank


def make_policy(transfer: KVTransferConfig, settings: KVTransferSettings, kv: KVCacheManager, place: Place) -> NixlPolicy:
    engine_id = settings.engine_id or str(uuid.uuid4())
    return NixlPolicy(
        kv,
        Address(f"{engine_id}_dp{place.engine}", transfer.nixl_side_channel_host, place.port(transfer)),
        num_ranks=place.num_ranks,
        recomputes=settings.kv_load_failure_policy == "recompute",
        keep_s=transfer.nixl_abort_request_timeout,
    )


def make_worker(
    transfer: KVTransferConfig,
    settings: KVTransferSettings,
    place: Place,
    resident: Resident,
    loaded: LoadedModel,
    plan: Plan,
    files: ModelFiles,
) -> NixlWorker:
    """Of a rank whose pages are there. Raises ConfigError."""
    extra, pages = settings.kv_connector_extra_config, Pages(resident.kv)
    is_on_gpu = pages.memory == "VRAM"
    if settings.kv_buffer_device is not None and (settings.kv_buffer_device == "cuda") != is_on_gpu:
        there = "a GPU" if is_on_gpu else "the host's memory"
        raise ConfigError([f"--kv-transfer-config: kv_buffer_device {settings.kv_buffer_device}: the KV cache is in {there}: leave it out"])
    agent = Agent(f"headway-{secrets.token_hex(8)}", extra.backends, pages)
    own = Own(pages, agent, _layout(place, resident, loaded, plan, files), _secret(extra.key_file))
    listening = Listening(transfer.nixl_side_channel_host, place.port(transfer), transfer.nixl_abort_request_timeout)
    return NixlWorker(own, listening if settings.keeps else None, compares=extra.checksum)


def _layout(place: Place, resident: Resident, loaded: LoadedModel, plan: Plan, files: ModelFiles) -> BlockLayout:
    _, _, num_kv_heads, head_dim = resident.kv[0].k.shape
    return BlockLayout(
        model=_digest_of(loaded, files),
        weight_format=loaded.weight_format,
        dtype=plan.kv_cache_dtype,
        page_size=plan.page_size,
        num_ranks=place.num_ranks,
        num_context_ranks=place.share.size,
        interleave=place.share.interleave,
        num_layers=len(resident.kv),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rank=place.rank,
    )


def _digest_of(loaded: LoadedModel, files: ModelFiles) -> str:
    """Of the model's shape, and of pieces of its weights all over their files."""
    digest = sha256()
    for field in fields(loaded.config):
        value = getattr(loaded.config, field.name)
        digest.update(f"{field.name}={sorted(value) if isinstance(value, frozenset) else value}\n".encode())
    paths = [files.path] if files.kind == "gguf" else sorted(files.path.glob("*.safetensors"))
    for path in paths:
        _sample(path, digest.update)
    return digest.hexdigest()[:16]


def _sample(path: Path, take: Callable[[bytes], None]) -> None:
    num_bytes = path.stat().st_size
    take(f"{num_bytes}\n".encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(num_bytes * index // _SAMPLES)
            take(file.read(_SAMPLE_BYTES))


def _secret(key_file: str | None) -> bytes:
    if key_file is None:
        return b""
    try:
        secret = Path(key_file).read_bytes().strip()
    except OSError as problem:
        raise ConfigError([f"--kv-transfer-config: key_file {key_file} can't be read: {problem.strerror}"]) from None
    if len(secret) < _MIN_KEY_BYTES:
        raise ConfigError([f"--kv-transfer-config: key_file {key_file} holds {len(secret)} bytes: {_MIN_KEY_BYTES} at least are needed"])
    return secret
