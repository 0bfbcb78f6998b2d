"""Over how many devices the layers of a model could be cut. This version runs one; the layers are ready for more."""

from __future__ import annotations

from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.modernbert_config import ModernBertConfig

_MOST = 8  # GPUs of an instance


def tensor_parallel_sizes(config: ModelConfig) -> tuple[int, ...]:
    """Those that every layer can be cut by: they divide the query heads and the feed-forward layer, and divide the key-value heads or are
    a multiple of them. The vocabulary is padded where they don't divide it. ModernBERT's fused tensors are not cut."""
    if isinstance(config, ModernBertConfig):
        return (1,)
    num_kv_heads = config.num_kv_heads if isinstance(config, DecoderConfig) else config.num_heads
    sizes = range(1, _MOST + 1)
    return tuple(
        size
        for size in sizes
        if config.num_heads % size == 0 and config.intermediate_size % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    )
