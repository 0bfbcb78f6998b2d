"""Whether a model fits an instance type, and what remains for requests: the engine's own decisions, for a machine that is not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from headway.container.check.machine import instance_facts, reserved_bytes, runs_on_gpu
from headway.container.instances import Instance, all_instances
from headway.server.config.data_parallel import gpus_missing
from headway.server.config.lora import LoraConfig
from headway.server.config.plan import DeviceFacts, Plan, Quantization, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.sizing.attention_library import check_attention
from headway.server.sizing.context import plan_within_memory
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.expert_balancing import check_balancing
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
from headway.server.sizing.pipeline_parallel import check_stages, shares
from headway.server.sizing.prompt_shares import check_prompt_shares
from headway.server.sizing.tensor_parallel import check_context, check_split, tensor_parallel_sizes
from headway.server.sizing.weights import adapter_bytes, weight_bytes, weight_format
from headway.server.words import gib, plural


@dataclass(frozen=True, slots=True)
class FitReport:
    """One engine on one device of an instance, in bytes of the device's memory: the GPU's, or the host's where there is none, which all
    engines share. Of a model that is split, the share of a rank, of the stage with the least room; ranks on a CPU have an equal part of the
    host's memory each.

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
    block_size: int  # tokens, over all ranks that hold a part of a block
    bytes_per_block: int  # 0: a model that keeps no keys and values
    num_blocks: int
    offload_bytes: int  # of the host's memory, by all engines: copies of KV blocks
    max_model_len: int  # as served
    longest_context: int  # that fits, up to the model's own limit; 0: none
    max_num_seqs: int  # most requests in a step
    max_num_batched_tokens: int  # most tokens in a step
    pools: bool  # it generates nothing: texts are computed in one step, or in pieces
    num_ranks: int  # --tensor-parallel-size for each stage
    num_stages: int  # --pipeline-parallel-size
    most_stages: int
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
    num_engines, parallel = config.data_parallel.data_parallel_size, config.parallel
    check_attention(config.attention, shape.config, on_gpu=on_gpu)
    empty = instance_facts(instance, on_gpu=on_gpu, used_bytes=0)
    plan = make_plan(config, shape.facts, empty)
    _check_ranks(config, shape, instance, on_gpu=on_gpu, quantization=plan.quantization)
    check_context(parallel, shape.config)
    if plan.fit_max_model_len and not shape.facts.computes_whole_texts:
        plan = plan_within_memory(config, plan, shape, empty)
    memories = [_memory_of(share, shape, plan, config.lora, on_gpu=on_gpu) for share in shares(shape, parallel, plan.quantization)]
    # One engine's ranks, and the engines, in the device's memory.
    num_sharing, num_there = (1, 1) if on_gpu else (parallel.num_ranks, num_engines)
    reserved, offload = reserved_bytes(instance, on_gpu=on_gpu), num_engines * config.kv_transfer.offload_bytes

    def room_of(memory: _Memory) -> _Room:
        used = memory.used if on_gpu else num_there * parallel.stage_size * sum(each.used for each in memories)
        facts = instance_facts(instance, on_gpu=on_gpu, used_bytes=used)
        facts = replace(facts, free_bytes=facts.free_bytes // num_sharing)
        needed = used + num_there * num_sharing * memory.activations
        problems = _too_large(shape, plan, facts.total_bytes, reserved + needed)
        problems = problems or _offload_too_large(offload, instance, 0 if on_gpu else needed)
        taken = num_there * memory.activations + (0 if on_gpu else offload // num_sharing)
        return _room(config, shape, plan, facts, memory, problems=problems, num_there=num_there, taken=taken)

    rooms = [room_of(memory) for memory in memories]
    worst = min(range(len(rooms)), key=lambda at: (not rooms[at].problems, rooms[at].num_blocks))
    memory, room = memories[worst], rooms[worst]
    sizes = tensor_parallel_sizes(shape.config, has_whole_experts=parallel.enable_expert_parallel)
    return FitReport(
        instance=instance,
        device="cuda" if on_gpu else "cpu",
        num_engines=num_engines,
        device_bytes=room.total_bytes,
        reserved_bytes=reserved,
        dtype=plan.dtype,
        kv_cache_dtype=plan.kv_cache_dtype,
        weight_format=weight_format(plan, shape.config),
        weight_bytes=memory.weights,
        adapter_bytes=memory.adapters,
        activation_bytes=memory.activations,
        block_size=plan.block_size,
        bytes_per_block=memory.per_block,
        num_blocks=room.num_blocks,
        offload_bytes=offload,
        max_model_len=room.max_model_len,
        longest_context=room.longest_context,
        max_num_seqs=plan.max_num_active_seqs,
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        pools=shape.facts.pools,
        num_ranks=parallel.num_ranks,
        num_stages=parallel.pipeline_parallel_size,
        most_stages=1 if shape.facts.pools else shape.config.num_layers,
        tensor_parallel_sizes=sizes,
        vocabulary_sizes=tuple(size for size in sizes if shape.config.vocab_size % size == 0),
        problems=room.problems or _too_many(num_engines * parallel.num_ranks, instance, on_gpu=on_gpu),
    )


def _check_ranks(config: ServerConfig, shape: ModelShape, instance: Instance, *, on_gpu: bool, quantization: Quantization) -> None:
    """Raises ConfigError where the model can't be cut as asked, or an instance that has to hold all ranks has too few GPUs for them."""
    num_engines, parallel = config.data_parallel.data_parallel_size, config.parallel
    is_of_one_host = on_gpu and not parallel.uses_ray
    if is_of_one_host and num_engines > 1 and num_engines * parallel.num_ranks > instance.num_gpus:
        raise ConfigError([gpus_missing(num_engines, parallel, f"{instance.name} has {instance.num_gpus}")])
    num_devices = instance.num_gpus // num_engines if is_of_one_host else None
    check_split(
        parallel.tensor_parallel_size,
        shape.config,
        quantization=quantization,
        num_devices=num_devices,
        has_whole_experts=parallel.enable_expert_parallel,
    )
    check_balancing(parallel, shape.config, quantization)
    check_prompt_shares(parallel, shape.config, num_devices=num_devices)
    check_stages(parallel, shape.config, num_devices=num_devices)


@dataclass(frozen=True, slots=True)
class _Memory:
    """Of a rank of one stage, in bytes."""

    weights: int
    adapters: int
    activations: int
    per_block: int
    used: int  # before the cache


@dataclass(frozen=True, slots=True)
class _Room:
    """For the cache of a rank of one stage."""

    total_bytes: int
    num_blocks: int
    max_model_len: int
    longest_context: int
    problems: tuple[str, ...]


def _memory_of(share: ModelShape, shape: ModelShape, plan: Plan, lora: LoraConfig, *, on_gpu: bool) -> _Memory:
    """``share`` is the rank's of the whole ``shape``."""
    weights, adapters = weight_bytes(share, plan, on_cpu=not on_gpu), adapter_bytes(share, plan, lora)
    activations = _activation_bytes(replace(shape, stage=share.stage), plan, on_gpu=on_gpu)
    per_block = bytes_per_block(kv_spec(share.config, share.stage), plan)
    return _Memory(weights, adapters, activations, per_block, weights + adapters + rope_table_bytes(shape.config, plan))


def _room(
    config: ServerConfig,
    shape: ModelShape,
    plan: Plan,
    facts: DeviceFacts,
    memory: _Memory,
    *,
    problems: tuple[str, ...],
    num_there: int,
    taken: int,
) -> _Room:
    """``problems``: those found so far; ``num_there``: engines in the device's memory; ``taken``: by what grows with a step or is beside
    the cache."""
    blocks = partial(plan_num_blocks, config, device=facts, bytes_per_block=memory.per_block, peak_activation_bytes=memory.activations)
    num_blocks, max_model_len, longest = 0, plan.max_model_len, 0 if problems else shape.facts.max_model_len
    if memory.per_block and not problems:
        longest = _longest_context(blocks, plan, shape.facts.max_model_len)
        try:
            num_blocks = pooled_num_blocks(plan, blocks(plan)) if shape.facts.pools else blocks(plan)
            max_model_len = fitted_max_model_len(plan, num_blocks)
            problems = _cache_too_large(num_there * num_blocks * memory.per_block, facts.free_bytes - taken)
        except ConfigError as error:
            problems = tuple(error.problems)
    return _Room(facts.total_bytes, num_blocks, max_model_len, longest, problems)


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
    num_outputs = config.hidden_size if shape.facts.pools else config.vocab_size if shape.stage.is_last else 0
    if not on_gpu:
        return cpu_step_bytes(config, plan, num_outputs)
    num_blocks = -(-plan.max_num_batched_tokens // plan.page_size)
    cache = num_blocks * bytes_per_block(kv_spec(config, shape.stage), plan)
    return activation_bytes(config, plan, itemsize(plan.dtype)) + cache + logits_bytes(plan, num_outputs)


def _too_large(shape: ModelShape, plan: Plan, total: int, needed: int) -> tuple[str, ...]:
    """A sentence where not even a model without a cache would have room."""
    if needed <= total:
        return ()
    lower = "--max-model-len or --max-num-seqs" if shape.facts.computes_whole_texts else "--max-num-batched-tokens or --max-num-seqs"
    return (
        f"the model needs {gib(needed)} of the {gib(total)} there are, with weights in {weight_format(plan, shape.config)}, the largest "
        f"step and what else is in that memory: take a larger instance or a smaller model, or lower {lower}",
    )


def _too_many(num_ranks: int, instance: Instance, *, on_gpu: bool) -> tuple[str, ...]:
    """With Ray more ranks than GPUs are no mistake, but of an endpoint."""
    num_hosts = -(-num_ranks // instance.num_gpus) if on_gpu else 1
    if num_hosts == 1:
        return ()
    return (
        f"{num_ranks} ranks take {num_hosts} hosts of {plural(instance.num_gpus, 'GPU')}: a Ray cluster may have them, the one instance of "
        "a SageMaker endpoint does not (docs/multi-node.md)",
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
