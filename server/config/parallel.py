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
    enable_expert_parallel: bool = option(
        False,
        "Of a mixture of experts: each rank of --tensor-parallel-size has some experts whole, in the place of a part of each.",
        short=("-ep",),
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


def parallel_problems(parallel: ParallelConfig, num_engines: int = 1) -> list[str]:
    """A sentence for each thing that can't be served by so many engines (--data-parallel-size)."""
    size, backend = parallel.tensor_parallel_size, parallel.distributed_executor_backend
    problems = []
    if backend == "uni" and size > 1:
        problems.append(f"--distributed-executor-backend uni is one process, and --tensor-parallel-size {size} takes {size}: use mp")
    if parallel.enable_expert_parallel and size == 1 and num_engines > 1:
        asked = f"--enable-expert-parallel with --data-parallel-size {num_engines}"
        why = "experts are shared by the ranks of an engine, not by engines"
        problems.append(f"{asked}: {why}; add --tensor-parallel-size, or leave it out")
    return problems
