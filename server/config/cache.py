"""Options about the paged KV cache."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class CacheConfig(Topic):
    """KV cache."""

    block_size: int | None = option(None, "Tokens in a KV block. Default: 16 on a GPU, 32 on a CPU.", ge=1, le=1024)
    gpu_memory_utilization: float = option(
        0.92,
        "Share of the device's memory that weights, activations and KV cache may take together.",
        gt=0,
        le=1,
        aliases=("device-memory-utilization",),
    )
    kv_cache_memory_bytes: int | None = option(None, "Exact size of the KV cache, in bytes (4g, 512M).", gt=0, human=True)
    num_gpu_blocks_override: int | None = option(None, "Exact number of KV blocks; for tests.", gt=0)
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8", "fp8_e4m3", "int8", "int8_per_token_head"] = option(
        "auto",
        "Type of cached keys and values. auto: the model's, or bfloat16 with --quantization gguf or int4 on a CPU; "
        "fp8 (e4m3): one byte a number, rounded, and slow on a CPU; int8: one byte a number and a scale of each token and head, on both.",
    )
    enable_prefix_caching: bool = option(
        True, "Keep the KV blocks of finished prompts and share them between requests with the same beginning."
    )
