"""Over how many devices the layers of a model can be cut, and what each of them has then."""

from __future__ import annotations

from dataclasses import replace

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import Quantization, is_grouped
from headway.server.errors import ConfigError
from headway.server.layers.quant.scheme import GGUF_GROUPS, ROUNDED_SCHEMES, WeightScheme, cuts_between_groups, share_of_expert
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig
from headway.server.sizing.model import ModelShape

_MOST = 8  # GPUs of an instance
_GROUP = 32  # channels that weights kept as a GGUF has them have in common
_KEPT_TOGETHER = {
    "gguf": "the blocks of this GGUF",
    "gguf_a16": "the blocks of this GGUF",
    "w4a8": f"the groups of {_GROUP} channels of this quantised checkpoint",
    "int4": f"the groups of {_GROUP} channels of --quantization int4",
    "w4a16": f"the groups of {ROUNDED_SCHEMES['w4a16'].group_size} channels of --quantization int4",
}


def tensor_parallel_sizes(config: ModelConfig, most: int = _MOST, *, has_whole_experts: bool = False) -> tuple[int, ...]:
    """Those that every layer can be cut by: they divide the query heads and the feed-forward layers, and divide the key-value heads or are
    a multiple of them. The vocabulary is padded where they don't divide it. ModernBERT's fused tensors are not cut. With whole experts each
    device has at least one."""
    if isinstance(config, ModernBertConfig):
        return (1,)
    inner = _inner_sizes(config, has_whole_experts)
    if has_whole_experts and isinstance(config, DecoderConfig):
        most = min(most, config.num_experts)
    num_kv_heads = config.num_kv_heads if isinstance(config, DecoderConfig) else config.num_heads
    sizes = range(1, most + 1)
    return tuple(
        size
        for size in sizes
        if all(count % size == 0 for count in (config.num_heads, *inner)) and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    )


def check_split(
    size: int, config: ModelConfig, *, quantization: Quantization, num_devices: int | None, has_whole_experts: bool = False
) -> None:
    """Raises ConfigError for a --tensor-parallel-size or an --enable-expert-parallel that can't be had. ``quantization``: the
    plan's. ``num_devices``: that an engine can have, None where ranks share one."""
    if has_whole_experts and isinstance(config, DecoderConfig) and not config.num_experts:
        raise ConfigError(["--enable-expert-parallel is for mixtures of experts, and this model is none: leave it out"])
    if size == 1:
        return
    assert isinstance(config, DecoderConfig), "models that pool are not split"
    sizes = tensor_parallel_sizes(config, max(size, num_devices or 2 * size), has_whole_experts=has_whole_experts)
    usable = tuple(other for other in sizes if other == 1 or _keeps_groups(config, other, quantization, has_whole_experts))
    if size not in sizes:
        why = f"this model has {_what_is_cut(config, has_whole_experts)}, which {size} devices can't share"
        raise ConfigError([f"--tensor-parallel-size {size}: {why}; the nearest that works is {_nearest(size, usable, num_devices)}"])
    if size not in usable:
        why = f"{_KEPT_TOGETHER.get(quantization, 'the groups of this quantised checkpoint')} can't be cut in {size}"
        others = f"use {_nearest(size, usable, num_devices)}, or --quantization none"
        if config.mixture is not None and not has_whole_experts and _keeps_groups(config, size, quantization, True):
            others = f"use {_nearest(size, usable, num_devices)}, --enable-expert-parallel or --quantization none"
        raise ConfigError([f"--tensor-parallel-size {size}: {why}; {others}"])
    if num_devices is not None and size > num_devices:
        fitting = _nearest(size, usable, num_devices)
        raise ConfigError([f"--tensor-parallel-size {size} needs as many GPUs, and there are {num_devices}: use {fitting}"])


def check_context(parallel: ParallelConfig, config: ModelConfig) -> None:
    """Raises ConfigError for a --decode-context-parallel-size that can't be had with a --tensor-parallel-size that can. Beside a
    --prefill-context-parallel-size it says what that does anyway."""
    context_size, size = parallel.decode_context_parallel_size, parallel.tensor_parallel_size
    if context_size == 1 or parallel.prefill_context_parallel_size > 1:
        return
    assert isinstance(config, DecoderConfig), "models that pool are not split"
    if config.has_sinks:
        why = "this model has attention sinks, which parts of a sequence have no way to share"
        raise ConfigError([f"--decode-context-parallel-size {context_size}: {why}; leave it out"])
    copies = max(size // config.num_kv_heads, 1)
    if copies % context_size == 0:
        return
    usable = tuple(other for other in range(1, copies + 1) if copies % other == 0)
    held = f"on {copies} devices" if copies > 1 else "on one device alone"
    why = f"with --tensor-parallel-size {size} a key-value head of this model is {held}"
    raise ConfigError(
        [f"--decode-context-parallel-size {context_size}: {why}; the nearest that works is {_nearest(context_size, usable, None)}"]
    )


def rank_share(shape: ModelShape, size: int, *, has_whole_experts: bool = False, quantization: Quantization = "none") -> ModelShape:
    """The shape of what one of ``size`` devices holds, that which holds most. ``quantization``: the plan's."""
    config = shape.config
    if size == 1 or not isinstance(config, DecoderConfig):
        return shape
    rows = replace(config, vocab_size=-(-config.vocab_size // size), intermediate_size=config.intermediate_size // size)
    heads = replace(rows, num_heads=config.num_heads // size, num_kv_heads=max(config.num_kv_heads // size, 1))
    if config.mixture is None:
        return replace(shape, config=heads)
    inner = config.mixture.intermediate_size
    if not has_whole_experts:
        scheme = _kept_scheme(config, quantization)
        own = None if scheme is None else share_of_expert(inner, scheme.step, 0, size)
        inner = inner // size if own is None else own[1]
    mixture = replace(config.mixture, intermediate_size=inner, shared_size=config.mixture.shared_size // size)
    most = -(-config.num_experts // size) if has_whole_experts else None
    return replace(shape, config=replace(heads, mixture=mixture), most_experts=most)


def _nearest(size: int, sizes: tuple[int, ...], num_devices: int | None) -> int:
    """Of two that are as near the larger, which needs less memory a device."""
    usable = [other for other in sizes if num_devices is None or other <= num_devices]
    return min(usable, key=lambda other: (abs(other - size), -other))


def _inner_sizes(config: ModelConfig, has_whole_experts: bool) -> tuple[int, ...]:
    """Of the feed-forward layers that are cut."""
    mixture = config.mixture if isinstance(config, DecoderConfig) else None
    if mixture is None:
        return (config.intermediate_size,)
    dense = (config.intermediate_size,) if mixture.dense_layers else ()
    shared = (mixture.shared_size,) if mixture.shared_size else ()
    return (*dense, *shared, *(() if has_whole_experts else (mixture.intermediate_size,)))


def _what_is_cut(config: DecoderConfig, has_whole_experts: bool) -> str:
    parts = [f"{config.num_heads} attention heads", f"{config.num_kv_heads} key-value heads"]
    if has_whole_experts:
        parts.append(f"{config.num_experts} experts")
    parts += [f"a feed-forward layer of {size}" for size in _inner_sizes(config, has_whole_experts)]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _keeps_groups(config: DecoderConfig, size: int, quantization: Quantization, has_whole_experts: bool) -> bool:
    """What is cut by columns is cut between groups, and no row pads a quantised vocabulary. Experts need not be cut evenly for it."""
    inner = _inner_sizes(config, has_whole_experts or not is_grouped(quantization))
    latent = config.latent
    columns = (config.num_heads * (config.head_dim if latent is None else latent.v_dim), *inner)
    if is_grouped(quantization):
        if quantization == "w4a8" and config.scheme is not None and config.scheme.has_order:
            return size == 1
        return config.vocab_size % size == 0 and all(count // size % _GROUP == 0 for count in columns)
    scheme = _kept_scheme(config, quantization)
    if scheme is None:
        return True
    mixture = None if has_whole_experts else config.mixture
    if mixture is not None and share_of_expert(mixture.intermediate_size, scheme.step, 0, size) is None:
        return False
    if quantization == "gguf_a16" and config.vocab_size % size:
        return False
    if quantization != "kept":
        return cuts_between_groups(scheme, columns, size)
    if scheme.layout == "mxfp4":
        return True  # experts alone are
    head = (config.vocab_size,) if "lm_head.weight" in config.quantized_linears else ()
    if scheme.is_blocked:
        kv_rows = max(config.num_kv_heads // size, 1) * config.head_dim
        heads = (columns[0] // size, kv_rows) if latent is None else (config.num_heads * latent.q_dim // size,)
        rows = (*heads, *(count // size for count in (*inner, *head)))
        if any(count % scheme.step for count in rows):
            return False
    return all(count % size == 0 for count in head) and cuts_between_groups(scheme, columns, size)


def _kept_scheme(config: DecoderConfig, quantization: Quantization) -> WeightScheme | None:
    """Of weights that a GPU keeps in few bits, or a CPU as a checkpoint has them."""
    if quantization == "kept":
        assert config.scheme is not None, "only those of a quantised checkpoint are kept so"
        return config.scheme
    if quantization == "gguf_a16":
        return GGUF_GROUPS
    return None if is_grouped(quantization) else ROUNDED_SCHEMES.get(quantization)
