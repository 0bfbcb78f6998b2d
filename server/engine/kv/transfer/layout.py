"""What the bytes of KV blocks mean, so that those of another model, or of another rank, are never taken for ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path

import msgspec

from headway.server.config.plan import Plan
from headway.server.distributed.places import RankPlace
from headway.server.distributed.sequence_share import WHOLE, SequenceShare
from headway.server.engine.resident import Resident
from headway.server.models.base import DecoderConfig, LoadedModel
from headway.server.source.files import ModelFiles

_SAMPLES = 16  # of a weight file, for its digest: a tuned model has the shape and the sizes of what it was made from
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank of which engine of the server this is, and what of each block is in its pages: the layers of its stage, of the heads and
    the tokens its share. ``host``: its address, if it is on another host than its engine."""

    engine: int
    among: RankPlace
    share: SequenceShare = WHOLE
    host: str | None = None

    @property
    def rank(self) -> int:
        """Among all of the engine."""
        return self.among.rank

    @property
    def num_ranks(self) -> int:
        return self.among.num_ranks


class BlockLayout(msgspec.Struct, frozen=True):
    """What a block's bytes mean: whoever reads blocks must agree in all of it with whoever wrote them. The first that differs is told."""

    model: str  # a digest of its shape and weights
    weight_format: str
    dtype: str
    page_size: int  # tokens of a block on one rank
    num_stages: int  # that have some of the layers each
    num_tensor_ranks: int  # that have some of the heads each
    num_prompt_shares: int  # times that the layers are there
    num_context_ranks: int  # that hold a page of each block
    interleave: int  # tokens side by side on one of them
    num_layers: int  # of a rank
    num_kv_heads: int  # of a rank
    head_dim: int
    rank: int
    rotation: int  # which of those that depend on the longest context, if any does

    @property
    def num_ranks(self) -> int:
        return self.num_stages * self.num_tensor_ranks * self.num_prompt_shares


def layout_of(place: Place, resident: Resident, loaded: LoadedModel, plan: Plan, files: ModelFiles) -> BlockLayout:
    _, _, num_kv_heads, head_dim = resident.kv[0].k.shape
    assert isinstance(loaded.config, DecoderConfig), "what keeps keys and values"
    return BlockLayout(
        model=_digest_of(loaded, files),
        weight_format=loaded.weight_format,
        dtype=plan.kv_cache_dtype,
        page_size=plan.page_size,
        num_stages=place.among.num_stages,
        num_tensor_ranks=place.among.tensor_size,
        num_prompt_shares=place.among.num_prompt_shares,
        num_context_ranks=place.share.size,
        interleave=place.share.interleave,
        num_layers=len(resident.kv),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rank=place.rank,
        rotation=max((rope.length_class(plan.max_model_len) for rope in loaded.config.distinct_ropes), default=0),
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
