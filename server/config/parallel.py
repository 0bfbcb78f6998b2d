"""Options about a model that is split over devices."""

from __future__ import annotations

from typing import Any, Literal

from headway.server.config.expert_balancing import BalancingSettings, balancing_config_problems
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
    enable_eplb: bool = option(
        False,
        "With --enable-expert-parallel: experts move between ranks while the server runs, so that all ranks have as much to do.",
    )
    eplb_config: dict[str, Any] = option(
        {},
        "JSON, of --enable-eplb: the steps whose load counts (`window_size`, 1000) and from one placement to the next (`step_interval`, "
        "3000), replicas of busy experts (`num_redundant_experts`, 0), `log_balancedness`, `log_balancedness_interval` (steps).",
    )
    decode_context_parallel_size: int = option(
        1,
        "Of the devices of --tensor-parallel-size, those that hold a key-value head together, each for its part of every request's tokens: "
        "the KV cache holds so many times as many tokens. It must divide the copies of such a head: for models with fewer than devices.",
        ge=1,
        le=64,
        short=("-dcp",),
    )
    prefill_context_parallel_size: int = option(
        1,
        "Times that the layers of the model are there, each on devices of their own, as many as --tensor-parallel-size says: the tokens of "
        "prompts are dealt out among them, and their keys and values with them. For long prompts.",
        ge=1,
        le=64,
        short=("-pcp",),
    )
    cp_kv_cache_interleave_size: int = option(
        1,
        "Tokens of a request side by side on one device of --decode-context-parallel-size or --prefill-context-parallel-size. It must "
        "divide --block-size.",
        ge=1,
        le=1024,
        aliases=("dcp-kv-cache-interleave-size",),
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
    def balancing(self) -> BalancingSettings:
        """To be asked once ``parallel_problems`` has found nothing."""
        return BalancingSettings.model_validate(self.eplb_config)

    @property
    def num_redundant_experts(self) -> int | None:
        """None: experts stay where they are. To be asked as ``balancing``."""
        return self.balancing.num_redundant_experts if self.enable_eplb else None

    @property
    def num_ranks(self) -> int:
        """Devices of an engine."""
        return self.stage_size * self.pipeline_parallel_size

    @property
    def stage_size(self) -> int:
        """Devices of a stage."""
        return self.tensor_parallel_size * self.prefill_context_parallel_size

    @property
    def num_context_ranks(self) -> int:
        """Over which the keys and values of a sequence are dealt out. To be asked once ``parallel_problems`` has found nothing."""
        return max(self.decode_context_parallel_size, self.prefill_context_parallel_size)

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
        size = self.pipeline_parallel_size
        return [*self.asked_of_stages, *([f"--pipeline-parallel-size {size}"] if size > 1 else [])]

    @property
    def asked_of_stages(self) -> list[str]:
        """The sizes above 1 that each stage has."""
        sizes = {
            "--tensor-parallel-size": self.tensor_parallel_size,
            "--prefill-context-parallel-size": self.prefill_context_parallel_size,
        }
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
    if (size := parallel.prefill_context_parallel_size) > 1 and parallel.decode_context_parallel_size not in (1, size):
        why = f"deals keys and values out over {size} devices, in decode steps too"
        problems.append(f"--prefill-context-parallel-size {size} {why}: leave --decode-context-parallel-size out, or use it alone")
    return [*problems, *_balancing_problems(parallel)]


def parallel_warnings(parallel: ParallelConfig) -> list[str]:
    """A sentence for what was asked for and has no effect."""
    if parallel.eplb_config and not parallel.enable_eplb:
        return ["--eplb-config has no effect without --enable-eplb: experts stay where they are"]
    return []


def _balancing_problems(parallel: ParallelConfig) -> list[str]:
    found = balancing_config_problems(parallel.eplb_config)
    if not parallel.enable_eplb:
        return found
    if not parallel.enable_expert_parallel:
        found.append("--enable-eplb moves whole experts between ranks: add --enable-expert-parallel, or leave it out")
    elif parallel.tensor_parallel_size == 1:
        found.append("--enable-eplb moves experts between the ranks of --tensor-parallel-size, which is 1: raise it, or leave this out")
    return found
