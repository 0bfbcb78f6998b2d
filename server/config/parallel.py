"""Options about a model that is split over devices."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option

_NO_LAUNCHER = "the engine starts its ranks itself: use mp"


class ParallelConfig(Topic):
    """Parallelism."""

    tensor_parallel_size: int = option(
        1,
        "Devices over which each layer is split; of this host, or with Ray of several. On a CPU: processes, which share its cores. It must "
        "divide the model's attention heads; `headway check` lists the sizes that work.",
        ge=1,
        le=64,
        short=("-tp",),
    )
    enable_expert_parallel: bool = option(
        False,
        "Of a mixture of experts: each rank of --tensor-parallel-size has some experts whole, in the place of a part of each.",
        short=("-ep",),
    )
    pipeline_parallel_size: int = option(
        1,
        "Stages of consecutive layers, each on devices of its own: as many as --tensor-parallel-size says. A step passes through one after "
        "the other, and as many steps as stages are under way.",
        ge=1,
        le=64,
        short=("-pp",),
    )
    distributed_executor_backend: Literal["mp", "ray", "uni"] | None = option(
        None,
        "What computes. mp: a process a device, the first of them the engine's own; ray: a process a device, on the hosts of a "
        "Ray cluster; uni: the engine's process alone. Default: uni for one device, else mp.",
        refused=(("external_launcher", _NO_LAUNCHER),),
    )
    ray_address: str | None = option(
        None,
        "The Ray cluster to join, as host:port of its head; auto: the one that runs on this host; local: a new one of this host alone. "
        "Default: one that runs on this host, else a new one.",
        environment=("RAY_ADDRESS",),
    )
    host_ip: str | None = option(
        None,
        "This host's address at which the other hosts of a Ray cluster reach it. Default: the one that Ray knows it by.",
        environment=("VLLM_HOST_IP",),
    )

    @property
    def num_ranks(self) -> int:
        """Devices of an engine."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def has_ranks(self) -> bool:
        """Whether the engine hands its steps to ranks, of which it is the first."""
        return self.distributed_executor_backend in ("mp", "ray") or self.num_ranks > 1

    @property
    def uses_ray(self) -> bool:
        """Whether ranks may be on several hosts: those of a Ray cluster."""
        return self.distributed_executor_backend == "ray"

    @property
    def asked(self) -> list[str]:
        """The sizes above 1, as flags."""
        sizes = {"--tensor-parallel-size": self.tensor_parallel_size, "--pipeline-parallel-size": self.pipeline_parallel_size}
        return [f"{flag} {size}" for flag, size in sizes.items() if size > 1]

    def gpu_index(self, engine: int, rank: int = 0) -> int:
        """Of those that the server sees: an engine's stand side by side, behind those of the engines before it."""
        return engine * self.num_ranks + rank


def parallel_problems(parallel: ParallelConfig, num_engines: int = 1) -> list[str]:
    """A sentence for each thing that can't be served by so many engines (--data-parallel-size)."""
    num_ranks, problems = parallel.num_ranks, []
    if parallel.distributed_executor_backend == "uni" and num_ranks > 1:
        asked = " with ".join(parallel.asked)
        problems.append(f"--distributed-executor-backend uni is one process, and {asked} takes {num_ranks}: use mp")
    if parallel.enable_expert_parallel and parallel.tensor_parallel_size == 1 and num_engines > 1:
        asked = f"--enable-expert-parallel with --data-parallel-size {num_engines}"
        why = "experts are shared by the ranks of an engine, not by engines"
        problems.append(f"{asked}: {why}; add --tensor-parallel-size, or leave it out")
    return problems
