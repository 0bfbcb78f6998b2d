"""What "auto" and unset resolved to: decided once from what was asked, the model and the device; never written back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from headway.server.config.attention import AttentionKind, LibraryFacts, library_problems
from headway.server.config.graphs import graph_sizes
from headway.server.config.model import AskedQuantization
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.words import GIB, gib

# kept: as a quantised checkpoint has its weights; w4a8: 4 bits of such a one in groups of 32, for a CPU. gguf, int8 and int4 are a CPU's
# too; gguf_a16 is a GPU's for a quantised GGUF, and w8a8, w4a16 and fp8 are for weights that are rounded as they are loaded.
Quantization = Literal["none", "int8", "int4", "gguf", "gguf_a16", "kept", "w4a8", "w8a8", "w4a16", "fp8"]

_ROUNDED_ON_A_GPU: dict[str, Quantization] = {"int8": "w8a8", "int4": "w4a16", "fp8": "fp8"}

_DTYPE_NAMES = {"float": "float32", "half": "float16"}
_ROUNDED_PAGES = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "int8": "int8", "int8_per_token_head": "int8"}


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the machine offers. ``total_bytes``/``free_bytes`` are the GPU's memory, or the host's on a CPU."""

    kind: Literal["cpu", "cuda"]
    name: str
    total_bytes: int
    free_bytes: int
    has_fast_bf16: bool  # bf16 matrix products faster than fp32; a GPU without can't compute in it
    has_fast_int8: bool
    multiplies_gguf: bool = False  # blocks of a quantised GGUF as they are: by compiled kernels


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the model's own files say."""

    dtype: str  # the checkpoint's, "float32" | "bfloat16" | "float16"
    max_model_len: int
    is_quantized_gguf: bool
    records_graphs: bool = True  # whether its decode steps can be captured as CUDA graphs
    pools: bool = False  # it generates nothing: many short texts a step
    computes_whole_texts: bool = False  # an encoder: each token sees all others
    quant_method: str = ""  # of a quantised checkpoint, as its config.json calls it
    keeps_on: frozenset[str] = frozenset()  # kinds of devices that compute with the weights as that checkpoint has them
    has_fp8_cache: bool = False  # whether that checkpoint is meant for a KV cache in fp8
    keeps_latents: bool = False  # one vector of a token for all heads, in the place of their keys and values
    is_groupable: bool = False  # whether that checkpoint's weights are 4 bits that a CPU's compiled kernels take in groups of 32


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions before the weights are loaded."""

    dtype: str
    quantization: Quantization
    kv_cache_dtype: str  # as torch calls it
    page_size: int  # tokens of a KV block that a rank holds
    num_context_ranks: int  # that hold a page of each block, the tokens of a sequence dealt out among them
    max_model_len: int
    fit_max_model_len: bool  # shorten max_model_len to what the KV cache holds instead of refusing
    max_num_batched_tokens: int
    max_num_seqs: int
    max_num_scheduled_tokens: int  # of these tokens
    max_num_active_seqs: int  # of these requests
    graph_sizes: tuple[int, ...]  # rows of the decode steps that are captured as CUDA graphs; none: all steps run eagerly
    overlaps_steps: bool  # a step is begun before the result of the one before it is looked at
    attention: AttentionKind = "own"  # whose attention kernels run
    num_drafts: int = 0  # tokens guessed ahead of a request, at most; each is a row of a step

    @property
    def max_num_rows(self) -> int:
        """Most rows of a step, drafts among them."""
        return min(self.max_num_seqs * (1 + self.num_drafts), self.max_num_batched_tokens)

    @property
    def block_size(self) -> int:
        """Tokens of a KV block, over all ranks that hold a part of it."""
        return self.page_size * self.num_context_ranks

    @property
    def adapter_dtype(self) -> str:
        """Of adapters in memory. 8 bits beside groups of 32: a step of many adapters takes as long as its memory takes to read them, and
        activations are rounded to as many. See kernels/grouped_lora.py."""
        return "int8" if is_grouped(self.quantization) else self.dtype


def is_grouped(quantization: Quantization) -> bool:
    """Whether weights are in groups of 32, for a CPU's product: see kernels/grouped_matmul.py."""
    return quantization in ("gguf", "int4", "w4a8")


def make_plan(config: ServerConfig, model: ModelFacts, device: DeviceFacts, library: LibraryFacts | None = None) -> Plan:
    """``library``: whose attention kernels were asked for and found, None: ours run. Raises ConfigError for an impossible combination, each
    problem with what would work."""
    dtype, quantization = _weights(config, model, device)
    max_model_len, fit = _context(config, model)
    on_gpu = device.kind == "cuda"
    budget = config.scheduler.max_num_batched_tokens
    if budget is None:
        budget = (8192 if device.total_bytes >= 70 * GIB else 2048) if on_gpu else 2048 if model.pools else 512
        if not config.scheduler.enable_chunked_prefill or model.computes_whole_texts:
            budget = max(budget, max_model_len)
    seqs = config.scheduler.max_num_seqs
    if seqs is None:
        seqs = min(256 if on_gpu or model.pools else 64, budget)
    problems = []
    page_size, interleave = config.cache.block_size or _page_size(on_gpu, library), config.parallel.cp_kv_cache_interleave_size
    if page_size % interleave:
        problems.append(f"--cp-kv-cache-interleave-size {interleave} does not divide --block-size {page_size}: use a divisor of it")
    pages = _pages(quantization, model, device, dtype)
    kv_dtype = config.cache.kv_cache_dtype
    if kv_dtype == "auto" and model.has_fp8_cache and device.kind == "cuda":
        kv_dtype = "fp8"
    if kv_dtype not in ("auto", dtype, pages, *_ROUNDED_PAGES):
        problems.append(_pages_problem(kv_dtype, dtype, pages, config.model.quantization))
    if _ROUNDED_PAGES.get(kv_dtype) == "int8" and model.keeps_latents:
        why = "this model keeps one vector of each token for all heads (latent attention), whose parts are too unlike for one scale"
        problems.append(f"--kv-cache-dtype {kv_dtype}: {why}: use auto or fp8")
    kept = pages if kv_dtype == "auto" else _ROUNDED_PAGES.get(kv_dtype, kv_dtype)
    if library is not None:
        problems += _library_problems(config, library, dtype, kept, page_size)
    if budget < seqs:
        problems.append(
            f"--max-num-batched-tokens {budget} is below --max-num-seqs {seqs}: every running request needs a token a step; raise the first"
        )
    if not config.scheduler.enable_chunked_prefill and budget < max_model_len:
        problems.append(
            f"--no-enable-chunked-prefill needs --max-num-batched-tokens of at least the context length {max_model_len}; "
            f"it is {budget}: raise it, lower --max-model-len, or leave chunked prefill on"
        )
    if model.computes_whole_texts and budget < max_model_len:
        problems.append(
            f"--max-num-batched-tokens {budget} is below the {max_model_len} tokens of this encoder's longest text, which must fit "
            "in one step: raise it, or lower --max-model-len"
        )
    if on_gpu and not model.records_graphs and config.graphs.cudagraph_capture_sizes:
        problems.append("--cudagraph-capture-sizes: the steps of a model that runs through transformers can't be captured: leave it out")
    if model.pools and config.scheduler.async_scheduling:
        problems.append("--async-scheduling is for models that generate, and this one pools texts: leave it out")
    num_drafts = config.speculative.num_drafts
    if model.pools and num_drafts:
        problems.append("--speculative-config is for models that generate, and this one pools texts: leave it out")
    scheduled, active = config.scheduler.max_num_scheduled_tokens or budget, config.scheduler.max_num_active_seqs or seqs
    problems += _lower_limit_problems(config, budget, scheduled, seqs, active)
    if problems:
        raise ConfigError(problems)
    return Plan(
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kept,
        page_size=page_size,
        num_context_ranks=config.parallel.num_context_ranks,
        max_model_len=max_model_len,
        fit_max_model_len=fit,
        max_num_batched_tokens=budget,
        max_num_seqs=seqs,
        max_num_scheduled_tokens=scheduled,
        max_num_active_seqs=active,
        graph_sizes=_graph_sizes(config, model, library, min(active * (1 + num_drafts), scheduled)) if on_gpu else (),
        overlaps_steps=_overlaps_steps(config, model, device),
        attention="own" if library is None else library.kind,
        num_drafts=num_drafts,
    )


def _lower_limit_problems(config: ServerConfig, budget: int, scheduled: int, seqs: int, active: int) -> list[str]:
    found = []
    if scheduled > budget:
        found.append(f"--max-num-scheduled-tokens {scheduled} is above --max-num-batched-tokens {budget}: raise the second")
    if active > seqs:
        found.append(f"--max-num-active-seqs {active} is above --max-num-seqs {seqs}: raise the second")
    if scheduled < budget and not config.scheduler.enable_chunked_prefill:
        found.append(
            "--max-num-scheduled-tokens splits prompts over steps, which --no-enable-chunked-prefill forbids: leave one of them out"
        )
    return found


def _graph_sizes(config: ServerConfig, model: ModelFacts, library: LibraryFacts | None, most: int) -> tuple[int, ...]:
    is_capturable = model.records_graphs and not model.pools and (library is None or library.is_capturable)
    return graph_sizes(config.graphs, most) if is_capturable else ()


def _page_size(on_gpu: bool, library: LibraryFacts | None) -> int:
    """Where none is asked for."""
    return max(16 if on_gpu else 32, 1 if library is None else library.page_multiple)


def _library_problems(config: ServerConfig, library: LibraryFacts, dtype: str, pages: str, page_size: int) -> list[str]:
    return library_problems(
        config.attention.attention_backend,
        library,
        dtype=dtype,
        pages=pages,
        page_size=page_size,
        captures=bool(config.graphs.cudagraph_capture_sizes),
    )


def _overlaps_steps(config: ServerConfig, model: ModelFacts, device: DeviceFacts) -> bool:
    """A CPU computes a step while it is handed over: overlapping it with the next brings nothing, and each answer one step later."""
    asked = config.scheduler.async_scheduling
    if config.parallel.pipeline_parallel_size > 1:
        return False  # steps of other requests are under way instead
    if config.speculative.num_drafts:
        return False  # how far a request gets is known only when its step has come back
    return not model.pools and (device.kind == "cuda" if asked is None else asked)


def _weights(config: ServerConfig, model: ModelFacts, device: DeviceFacts) -> tuple[str, Quantization]:
    asked, quantization = config.model.dtype, _quantization(config, model, device)
    if device.kind == "cuda":
        if asked == "bfloat16" and not device.has_fast_bf16:
            needed = "which GPUs have from compute capability 8.0 on"
            raise ConfigError([f"--dtype bfloat16: {device.name} has no units for it, {needed}: use --dtype float16 or auto"])
        auto = "bfloat16" if model.dtype == "bfloat16" and device.has_fast_bf16 else "float16"
        return (_DTYPE_NAMES.get(asked, asked) if asked != "auto" else auto), quantization
    if quantization != "none":
        if asked not in ("auto", "float32", "float"):
            raise ConfigError(
                [
                    f"--quantization {config.model.quantization} computes in float32 between its products: use --dtype float32 or auto, "
                    f"not {asked}"
                ]
            )
        return "float32", quantization
    if asked == "auto":
        return ("bfloat16" if device.has_fast_bf16 else "float32"), "none"
    return _DTYPE_NAMES.get(asked, asked), "none"


def _quantization(config: ServerConfig, model: ModelFacts, device: DeviceFacts) -> Quantization:
    asked = config.model.quantization
    if asked == "gguf" and not model.is_quantized_gguf:
        raise ConfigError(["--quantization gguf keeps the weights of a quantised GGUF, and this model is none: use int8, or leave it out"])
    if asked == "gguf" and device.kind == "cuda":
        return "gguf_a16"
    if asked == "none" or asked == "gguf":
        return asked
    if asked == "int8" or asked == "int4" or (asked == "fp8" and not model.quant_method):
        return _rounded(asked, device)
    method = None if asked is None else asked.removesuffix("_marlin")
    if method not in (None, model.quant_method):
        other = f"config.json names the format {model.quant_method}" if model.quant_method else "config.json names no format"
        raise ConfigError([f"--quantization {asked} is not what this model is: its {other}; leave it out"])
    if model.quant_method:
        if model.is_groupable and device.kind == "cpu" and device.multiplies_gguf:
            return "w4a8" if asked is not None or config.model.dtype == "auto" else "none"
        # On a CPU another --dtype than float32 asks for weights in it, and float32 for its arithmetic.
        is_kept = device.kind in model.keeps_on and (device.kind == "cuda" or asked is not None or config.model.dtype == "auto")
        return "kept" if is_kept else "none"
    return _unset_quantization(device, config.model.dtype) if model.is_quantized_gguf else "none"


def _rounded(asked: Literal["int8", "int4", "fp8"], device: DeviceFacts) -> Quantization:
    """What the weights become as they are loaded."""
    if device.kind == "cuda":
        return _ROUNDED_ON_A_GPU[asked]
    if asked == "fp8":
        raise ConfigError(["--quantization fp8 is for GPUs, and this runs on a CPU: use int8 or int4"])
    if asked == "int4" and not device.multiplies_gguf:
        raise ConfigError(["--quantization int4 needs the compiled kernels, which are not built for this CPU: use int8"])
    return asked


def _pages(quantization: Quantization, model: ModelFacts, device: DeviceFacts, dtype: str) -> str:
    """What the model's keys and values are kept in. Beside activations rounded to 8 bits bf16 costs nothing (perplexity of the demo model:
    tests/models/test_grouped_model.py), and decode attention waits for memory."""
    return "bfloat16" if is_grouped(quantization) and device.multiplies_gguf and not model.pools else dtype


def _pages_problem(asked: str, dtype: str, pages: str, quantization: AskedQuantization | None) -> str:
    choices = "auto, fp8 or int8" if pages == dtype else f"auto, {dtype}, fp8 or int8"
    both = f", or --dtype {asked} for both" if quantization in (None, "none") else ""
    return f"--kv-cache-dtype {asked} differs from the model's {dtype}: use {choices}{both}"


def _unset_quantization(device: DeviceFacts, dtype: str) -> Quantization:
    """Of a quantised GGUF, whose users already accept 8-bit activations. On a CPU --dtype float32 is the reference arithmetic; on a GPU
    activations alone have it."""
    if device.kind == "cuda":
        return "gguf_a16"
    if dtype != "auto":
        return "none"
    if device.multiplies_gguf:
        return "gguf"
    # In torch alone: SmolLM2-135M steps as fast in bf16 as in int8 where the chip multiplies it (2026-11), and keeps its perplexity.
    return "int8" if device.has_fast_int8 and not device.has_fast_bf16 else "none"


def _context(config: ServerConfig, model: ModelFacts) -> tuple[int, bool]:
    asked = config.model.max_model_len
    if asked is None or asked == "auto" or asked == -1:
        return model.max_model_len, asked is not None
    if asked > model.max_model_len and not config.model.allow_long_max_model_len:
        raise ConfigError(
            [
                f"--max-model-len {asked} is above the model's own limit of {model.max_model_len} tokens: "
                "lower it, leave it out to get the limit, or add --allow-long-max-model-len and take worse answers beyond it"
            ]
        )
    return asked, False


def plan_num_blocks(config: ServerConfig, plan: Plan, device: DeviceFacts, *, bytes_per_block: int, peak_activation_bytes: int) -> int:
    """Number of KV blocks, once the weights are on the device (``device`` measured after loading).

    On a GPU the cache takes what --gpu-memory-utilization leaves after weights and activations. On a CPU it takes what
    max_num_seqs full contexts need, at most a quarter of the free memory: host memory is shared with everything else, and that quarter
    by the engines of --data-parallel-size; what is copied out of their caches into the host's memory is not free.
    Raises ConfigError when not even one full context fits, naming the largest that does.
    """
    num_blocks = _num_affordable_blocks(config, plan, device, bytes_per_block, peak_activation_bytes)
    cache, needed = config.cache, -(-plan.max_model_len // plan.block_size)
    if num_blocks < needed and not plan.fit_max_model_len and cache.num_gpu_blocks_override is None:
        fits = num_blocks * plan.block_size
        raise ConfigError(
            [
                f"the KV cache holds {fits} tokens ({gib(num_blocks * bytes_per_block, 2)}), "
                f"fewer than --max-model-len {plan.max_model_len}: set --max-model-len {max(fits, 1)} or auto, "
                f"or give the cache more with --kv-cache-memory-bytes ({needed * bytes_per_block} needed)"
                f"{' or --gpu-memory-utilization' if device.kind == 'cuda' else ''}"
            ]
        )
    if num_blocks < 1:
        raise ConfigError(
            [
                f"no memory is left for the KV cache: one block takes {bytes_per_block} bytes; "
                f"free memory on {device.name} or use a smaller model"
            ]
        )
    return num_blocks


def _num_affordable_blocks(config: ServerConfig, plan: Plan, device: DeviceFacts, bytes_per_block: int, peak_activation_bytes: int) -> int:
    cache = config.cache
    if cache.num_gpu_blocks_override is not None:
        return cache.num_gpu_blocks_override
    if cache.kv_cache_memory_bytes is not None:
        return cache.kv_cache_memory_bytes // bytes_per_block
    if device.kind == "cuda":
        used = device.total_bytes - device.free_bytes
        budget = int(device.total_bytes * cache.gpu_memory_utilization) - used - peak_activation_bytes
        return max(budget, 0) // bytes_per_block
    num_engines, num_ranks = config.data_parallel.data_parallel_size, config.parallel.tensor_parallel_size
    free = device.free_bytes - num_engines * config.kv_transfer.offload_bytes // num_ranks
    budget = int(free * 0.25 / num_engines) - peak_activation_bytes
    return min(max(budget, 0) // bytes_per_block, -(-plan.max_model_len // plan.block_size) * plan.max_num_seqs)


def bounded_plan(config: ServerConfig, plan: Plan, device: DeviceFacts, *, bytes_per_block: int) -> Plan:
    """Before the weights are loaded: with a context that the cache could hold if it had all of the device. What a model computes of each
    position is made for that many; how many they are is told by a file that is anybody's.

    ``bytes_per_block``: as much as a block takes at least. Raises ConfigError where a longer context is wanted than ever fits.
    """
    cache = config.cache
    most = _num_affordable_blocks(config, plan, replace(device, free_bytes=device.total_bytes), bytes_per_block, 0) * plan.block_size
    if most >= plan.max_model_len or (cache.num_gpu_blocks_override is not None and not plan.fit_max_model_len):
        return plan
    if plan.fit_max_model_len:
        return replace(plan, max_model_len=max(most, plan.block_size))
    if cache.kv_cache_memory_bytes is not None:
        return plan  # what is told then names the length that fits
    raise ConfigError(
        [
            f"the KV cache could hold {most} tokens on {device.name} if nothing else needed its memory, fewer than --max-model-len "
            f"{plan.max_model_len}: set --max-model-len auto to get the longest that fits, or a lower one"
        ]
    )


def fitted_max_model_len(plan: Plan, num_blocks: int) -> int:
    """The context length after the cache is sized: asked for, or with auto the longest that fits."""
    return min(plan.max_model_len, num_blocks * plan.block_size) if plan.fit_max_model_len else plan.max_model_len
