"""Options about a model that is split over devices."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option

_NO_RAY = (
    "Ray is not used, and a model is not split over hosts: use mp, with --tensor-parallel-size for the GPUs of one host; for several hosts "
    "start a server on each, and put `headway router` before them"
)
_NO_LAUNCHER = "the engine starts its ranks itself: use mp"


class ParallelConfig(Topic):
    """Parallelism."""

    tensor_parallel_size: int = option(
        1,
        "Devices of this host over which each layer is split. On a CPU: processes, which share its cores. It must divide the model's "
        "attention heads; `headway check` lists the sizes that work.",
        ge=1,
        le=64,
        short=("-tp",),
    )
    decode_context_parallel_size: int = option(
        1,
        "Of the devices of --tensor-parallel-size, those that hold a key-value head together, each for its part of every request's tokens: "
        "the KV cache holds so many times as many tokens. It must divide the copies of such a head: for models with fewer than devices.",
        ge=1,
        le=64,
        short=("-dcp",),
    )
    cp_kv_cache_interleave_size: int = option(
        1,
        "Tokens of a request side by side on one device of --decode-context-parallel-size. It must divide --block-size.",
        ge=1,
        le=1024,
        aliases=("dcp-kv-cache-interleave-size",),
    )
    distributed_executor_backend: Literal["mp", "uni"] | None = option(
        None,
        "What computes. mp: a process a device, the first of them the engine's own; uni: the engine's process alone. Default: uni for one "
        "device, else mp.",
        refused=(("ray", _NO_RAY), ("external_launcher", _NO_LAUNCHER)),
    )

    @property
    def has_ranks(self) -> bool:
        """Whether the engine hands its steps to ranks, of which it is the first."""
        return self.distributed_executor_backend == "mp" or self.tensor_parallel_size > 1

    def gpu_index(self, engine: int, rank: int = 0) -> int:
        """Of those that the server sees: an engine's stand side by side, behind those of the engines before it."""
        return engine * self.tensor_parallel_size + rank


def parallel_problems(parallel: ParallelConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    size, backend = parallel.tensor_parallel_size, parallel.distributed_executor_backend
    if backend == "uni" and size > 1:
        return [f"--distributed-executor-backend uni is one process, and --tensor-parallel-size {size} takes {size}: use mp"]
    return []
