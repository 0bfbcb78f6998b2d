"""Whether a model fits an instance type, and what remains for requests: the engine's own decisions, for a machine that is not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from headway.container.check.machine import instance_facts, reserved_bytes, runs_on_gpu
from headway.container.instances import Instance, all_instances
from headway.server.config.data_parallel import gpus_missing
from headway.server.config.plan import Plan, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.memory import (
    activation_bytes,
    bytes_per_block,
    cpu_step_bytes,
    kv_spec,
    logits_bytes,
    pooled_num_blocks,
    rope_table_bytes,
)
from headway.server.sizing.model import ModelShape
from headway.server.sizing.tensor_parallel import check_split, rank_share, tensor_parallel_sizes
from headway.server.sizing.weights import adapter_bytes, weight_bytes, weight_format
from headway.server.words import gib


@dataclass(frozen=True, slots=True)
class FitReport:
    """One engine on one device of an instance, in bytes of the device's memory: the GPU's, or the host's where there is none, which all
    engines share. Of a model that is split, the share of a rank; ranks on a CPU have an equal part of the host's memory each.

    ``problems`` are sentences; with any the server would not start there, or not stay alive.
    """

    instance: Instance
    device: Literal["cpu", "cuda"]
    num_engines: int  # --data-parallel-size
    device_bytes: int
    reserved_bytes: int  # estimated: the CUDA context, or the system and our processes
    dtype: str  # of activations: "bfloat16"
    kv_cache_dtype: str  # of keys and values
    weight_format: str  # "bf16", "int8 (8-bit activations)"
    weight_bytes: int
    adapter_bytes: int  # room for LoRA adapters
    activation_bytes: int  # the largest step's, beside weights and cache; on a GPU estimated, where the engine measures it
    block_size: int  # tokens
    bytes_per_block: int  # 0: a model that keeps no keys and values
    num_blocks: int
    offload_bytes: int  # of the host's memory, by all engines: copies of KV blocks
    max_model_len: int  # as served
    longest_context: int  # that fits, up to the model's own limit; 0: none
    max_num_seqs: int  # most requests in a step
    max_num_batched_tokens: int  # most tokens in a step
    pools: bool  # it generates nothing: texts are computed in one step, or in pieces
    num_ranks: int  # --tensor-parallel-size
    tensor_parallel_sizes: tuple[int, ...]  # that cut every layer, up to 8
    vocabulary_sizes: tuple[int, ...]  # those that also divide the vocabulary; it is padded for the others
    problems: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def kv_cache_bytes(self) -> int:
        return self.num_blocks * self.bytes_per_block

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * self.block_size if self.bytes_per_block else 0

    def num_requests(self, context: int) -> int:
        """How many requests of ``context`` tokens, prompt and answer, an engine computes at a time without one waiting for another's
        memory. 0 where it is above ``max_model_len``, or nothing fits."""
        if context > self.max_model_len or not self.fits:
            return 0
        limits = [self.max_num_seqs]
        if self.bytes_per_block:
            limits.append(self.num_blocks // -(-context // self.block_size))
        if self.pools:
            limits.append(max(self.max_num_batched_tokens // context, 1))
        return min(limits)


def fit_report(config: ServerConfig, shape: ModelShape, instance: Instance) -> FitReport:
    """``config`` is Resolved's, ``shape`` is of sizing.model.read_shape. What does not fit is told in ``problems``.

    Raises ConfigError for options that can't work with this model on such a device.
    """
    on_gpu = runs_on_gpu(instance, config.model.device)
    num_engines = config.data_parallel.data_parallel_size
    num_ranks = config.parallel.tensor_parallel_size
    if on_gpu and num_engines > 1 and num_engines * num_ranks > instance.num_gpus:
        raise ConfigError([gpus_missing(num_engines, num_ranks, f"{instance.name} has {instance.num_gpus}")])
    num_there = 1 if on_gpu else num_engines  # in the device's memory
    plan = make_plan(config, shape.facts, instance_facts(instance, on_gpu=on_gpu, used_bytes=0))
    keeps_groups, num_devices = plan.quantization == "gguf", instance.num_gpus // num_engines if on_gpu else None
    check_split(num_ranks, shape.config, keeps_groups=keeps_groups, num_devices=num_devices)
    share = rank_share(shape, num_ranks)
    weights = weight_bytes(share, plan, on_cpu=not on_gpu)
    adapters = adapter_bytes(share, plan, config.lora)
    activations = _activation_bytes(shape, plan, on_gpu=on_gpu)
    used = weights + adapters + rope_table_bytes(shape.config, plan)
    num_sharing = 1 if on_gpu else num_ranks  # one engine's ranks, in the device's memory
    facts = instance_facts(instance, on_gpu=on_gpu, used_bytes=num_there * num_sharing * used)
    facts = replace(facts, free_bytes=facts.free_bytes // num_sharing)
    per_block = bytes_per_block(kv_spec(share.config), plan)

    blocks = partial(plan_num_blocks, config, device=facts, bytes_per_block=per_block, peak_activation_bytes=activations)
    reserved = reserved_bytes(instance, on_gpu=on_gpu)
    offload = num_engines * config.kv_transfer.offload_bytes
    offload_there = 0 if on_gpu else offload
    problems = _too_large(shape, plan, facts.total_bytes, reserved + num_there * num_sharing * (used + activations))
    problems = problems or _offload_too_large(offload, instance, 0 if on_gpu else num_there * num_sharing * (used + activations))
    num_blocks, max_model_len, longest = 0, plan.max_model_len, 0 if problems else shape.facts.max_model_len
    if per_block and not problems:
        longest = _longest_context(blocks, plan, shape.facts.max_model_len)
        try:
            num_blocks = pooled_num_blocks(plan, blocks(plan)) if shape.facts.pools else blocks(plan)
            max_model_len = fitted_max_model_len(plan, num_blocks)
            left = facts.free_bytes - num_there * activations - offload_there // num_sharing
            problems = _cache_too_large(num_there * num_blocks * per_block, left)
        except ConfigError as error:
            problems = tuple(error.problems)
    sizes = tensor_parallel_sizes(shape.config)
    return FitReport(
        instance=instance,
        device=facts.kind,
        num_engines=num_engines,
        device_bytes=facts.total_bytes,
        reserved_bytes=reserved,
        dtype=plan.dtype,
        kv_cache_dtype=plan.kv_cache_dtype,
        weight_format=weight_format(plan),
        weight_bytes=weights,
        adapter_bytes=adapters,
        activation_bytes=activations,
        block_size=plan.block_size,
        bytes_per_block=per_block,
        num_blocks=num_blocks,
        offload_bytes=offload,
        max_model_len=max_model_len,
        longest_context=longest,
        max_num_seqs=plan.max_num_active_seqs,
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        pools=shape.facts.pools,
        num_ranks=num_ranks,
        tensor_parallel_sizes=sizes,
        vocabulary_sizes=tuple(size for size in sizes if shape.config.vocab_size % size == 0),
        problems=problems,
    )


def fitting_instances(config: ServerConfig, shape: ModelShape) -> list[FitReport]:
    """Of the instance types on which the server would start: the least memory of a GPU first, then the fewest GPUs, then the least memory
    of the host. CPU types come first, since they have no GPU."""
    reports = []
    for instance in all_instances().values():
        try:
            report = fit_report(config, shape, instance)
        except ConfigError:
            continue  # --device names a GPU and it has none, or too old a one; or int8 and it has one
        if report.fits:
            reports.append(report)
    return sorted(reports, key=lambda report: _memory(report.instance))


def _memory(instance: Instance) -> tuple[int, int, int, int, str]:
    return instance.gpu_bytes, instance.num_gpus, instance.memory_bytes, instance.vcpus, instance.name


def _activation_bytes(shape: ModelShape, plan: Plan, *, on_gpu: bool) -> int:
    """On a CPU what the engine itself reckons with. On a GPU it runs the largest step, in a cache made for it, and takes the peak: this
    is that step's in the plan's dtype."""
    config = shape.config
    num_outputs = config.hidden_size if shape.facts.pools else config.vocab_size
    if not on_gpu:
        return cpu_step_bytes(config, plan, num_outputs)
    num_blocks = -(-plan.max_num_batched_tokens // plan.block_size)
    cache = num_blocks * bytes_per_block(kv_spec(config), plan)
    return activation_bytes(config, plan, itemsize(plan.dtype)) + cache + logits_bytes(plan, num_outputs)


def _too_large(shape: ModelShape, plan: Plan, total: int, needed: int) -> tuple[str, ...]:
    """A sentence where not even a model without a cache would have room."""
    if needed <= total:
        return ()
    lower = "--max-model-len or --max-num-seqs" if shape.facts.computes_whole_texts else "--max-num-batched-tokens or --max-num-seqs"
    return (
        f"the model needs {gib(needed)} of the {gib(total)} there are, with weights in {weight_format(plan)}, the largest step and what "
        f"else is in that memory: take a larger instance or a smaller model, or lower {lower}",
    )


def _offload_too_large(offload: int, instance: Instance, used: int) -> tuple[str, ...]:
    """``used``: of the host's memory, by the engines."""
    left = instance.memory_bytes - reserved_bytes(instance, on_gpu=False) - used
    if offload <= max(left, 0):
        return ()
    return (f"KV offload asks for {gib(offload)} of the host's memory, and {gib(max(left, 0))} are left: lower --kv-offloading-size",)


def _cache_too_large(cache: int, left: int) -> tuple[str, ...]:
    """An exact size is taken as it is asked for, and fails when the memory is."""
    if cache <= left:
        return ()
    return (f"the KV cache is asked to take {gib(cache)}, and {gib(left)} are left for it: lower --kv-cache-memory-bytes (or blocks)",)


def _longest_context(blocks: Callable[[Plan], int], plan: Plan, limit: int) -> int:
    """That the cache would hold if it were asked for, however short a context was."""
    longest = replace(plan, max_model_len=limit, fit_max_model_len=True)
    try:
        return fitted_max_model_len(longest, blocks(longest))
    except ConfigError:
        return 0
