"""Over how many devices the layers of a model can be cut, and what each of them has then."""

from __future__ import annotations

from dataclasses import replace

from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig
from headway.server.sizing.model import ModelShape

_MOST = 8  # GPUs of an instance
_GROUP = 32  # channels that weights kept as a GGUF has them have in common


def tensor_parallel_sizes(config: ModelConfig, most: int = _MOST) -> tuple[int, ...]:
    """Those that every layer can be cut by: they divide the query heads and the feed-forward layer, and divide the key-value heads or are
    a multiple of them. The vocabulary is padded where they don't divide it. ModernBERT's fused tensors are not cut."""
    if isinstance(config, ModernBertConfig):
        return (1,)
    num_kv_heads = config.num_kv_heads if isinstance(config, DecoderConfig) else config.num_heads
    sizes = range(1, most + 1)
    return tuple(
        size
        for size in sizes
        if config.num_heads % size == 0 and config.intermediate_size % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    )


def check_split(size: int, config: ModelConfig, *, keeps_groups: bool, num_devices: int | None) -> None:
    """Raises ConfigError for a --tensor-parallel-size that can't be had. ``keeps_groups``: the weights are kept as a GGUF has them.
    ``num_devices``: that an engine can have, None where ranks share one."""
    if size == 1:
        return
    assert isinstance(config, DecoderConfig), "models that pool are not split"
    sizes = tensor_parallel_sizes(config, max(size, num_devices or 2 * size))
    usable = tuple(other for other in sizes if other == 1 or not keeps_groups or _keeps_groups(config, other))
    if size not in sizes:
        heads = f"{config.num_heads} attention heads, {config.num_kv_heads} key-value heads and a feed-forward layer of "
        why = f"this model has {heads}{config.intermediate_size}, which {size} devices can't share"
        raise ConfigError([f"--tensor-parallel-size {size}: {why}; the nearest that works is {_nearest(size, usable, num_devices)}"])
    if size not in usable:
        why = f"the blocks of this GGUF can't be cut in {size}"
        others = f"use {_nearest(size, usable, num_devices)}, or --quantization none"
        raise ConfigError([f"--tensor-parallel-size {size}: {why}; {others}"])
    if num_devices is not None and size > num_devices:
        fitting = _nearest(size, usable, num_devices)
        raise ConfigError([f"--tensor-parallel-size {size} needs as many GPUs, and there are {num_devices}: use {fitting}"])


def check_context(context_size: int, size: int, config: ModelConfig) -> None:
    """Raises ConfigError for a --decode-context-parallel-size that can't be had with this --tensor-parallel-size, itself possible."""
    if context_size == 1:
        return
    assert isinstance(config, DecoderConfig), "models that pool are not split"
    copies = max(size // config.num_kv_heads, 1)
    if copies % context_size == 0:
        return
    usable = tuple(other for other in range(1, copies + 1) if copies % other == 0)
    held = f"on {copies} devices" if copies > 1 else "on one device alone"
    why = f"with --tensor-parallel-size {size} a key-value head of this model is {held}"
    raise ConfigError(
        [f"--decode-context-parallel-size {context_size}: {why}; the nearest that works is {_nearest(context_size, usable, None)}"]
    )


def rank_share(shape: ModelShape, size: int) -> ModelShape:
    """The shape of what one of ``size`` devices holds."""
    config = shape.config
    if size == 1 or not isinstance(config, DecoderConfig):
        return shape
    rows = replace(config, vocab_size=-(-config.vocab_size // size), intermediate_size=config.intermediate_size // size)
    heads = replace(rows, num_heads=config.num_heads // size, num_kv_heads=max(config.num_kv_heads // size, 1))
    return replace(shape, config=heads)


def _nearest(size: int, sizes: tuple[int, ...], num_devices: int | None) -> int:
    """Of two that are as near the larger, which needs less memory a device."""
    usable = [other for other in sizes if num_devices is None or other <= num_devices]
    return min(usable, key=lambda other: (abs(other - size), -other))


def _keeps_groups(config: DecoderConfig, size: int) -> bool:
    """What is cut by columns is cut between groups, and no row pads the vocabulary."""
    columns = (config.num_heads * config.head_dim, config.intermediate_size)
    return config.vocab_size % size == 0 and all(count // size % _GROUP == 0 for count in columns)
