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
    pipeline_parallel_size: int = option(
        1,
        "Stages of consecutive layers, each on devices of its own: as many as --tensor-parallel-size says. A step passes through one after "
        "the other, and as many steps as stages are under way.",
        ge=1,
        le=64,
        short=("-pp",),
    )
    distributed_executor_backend: Literal["mp", "uni"] | None = option(
        None,
        "What computes. mp: a process a device, the first of them the engine's own; uni: the engine's process alone. Default: uni for one "
        "device, else mp.",
        refused=(("ray", _NO_RAY), ("external_launcher", _NO_LAUNCHER)),
    )

    @property
    def num_ranks(self) -> int:
        """Devices of an engine."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def has_ranks(self) -> bool:
        """Whether the engine hands its steps to ranks, of which it is the first."""
        return self.distributed_executor_backend == "mp" or self.num_ranks > 1

    @property
    def asked(self) -> list[str]:
        """The sizes above 1, as flags."""
        sizes = {"--tensor-parallel-size": self.tensor_parallel_size, "--pipeline-parallel-size": self.pipeline_parallel_size}
        return [f"{flag} {size}" for flag, size in sizes.items() if size > 1]

    def gpu_index(self, engine: int, rank: int = 0) -> int:
        """Of those that the server sees: an engine's stand side by side, behind those of the engines before it."""
        return engine * self.num_ranks + rank


def parallel_problems(parallel: ParallelConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    num_ranks = parallel.num_ranks
    if parallel.distributed_executor_backend == "uni" and num_ranks > 1:
        return [f"--distributed-executor-backend uni is one process, and {' with '.join(parallel.asked)} takes {num_ranks}: use mp"]
    return []
