"""A kernel with its inputs, and the work that it has to do whatever its version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from device_timing import Call


@dataclass(frozen=True, slots=True)
class Case:
    """``make`` draws random inputs and returns the call that is timed."""

    kernel: str
    shape: str
    num_bytes: int  # each input read once, each output written once
    flops: float
    make: Callable[[], Call]
    arithmetic: str = "bf16"  # whose rate bounds the operations
    is_cold: bool = False  # in the engine the inputs come from memory; else a neighbour has just left them in the cache
    is_capturable: bool = True  # a CUDA graph can hold it


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a model and of the steps that its kernels are measured at."""

    dtype: torch.dtype
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    wide_vocab_size: int  # of a model whose vocabulary is larger still
    num_rows: tuple[int, ...]  # of the inputs of matrix products
    step_tokens: tuple[int, ...]  # of element-wise kernels
    decodes: tuple[tuple[int, int], ...]  # (batch, context)
    prefills: tuple[tuple[int, int, int], ...]  # (rows, new tokens a row, tokens before them)
    sliding_window: int
    num_choices: tuple[int, ...]  # rows to sample

    @property
    def arithmetic(self) -> str:
        """Of products of its activations."""
        return "fp32" if self.dtype == torch.float32 else "bf16"

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """The matrix products of a layer and of the output, as (N, K)."""
        width = self.num_heads * self.head_dim
        return {
            "qkv": (width + 2 * self.num_kv_heads * self.head_dim, self.hidden_size),
            "o": (self.hidden_size, width),
            "gate_up": (2 * self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
            "lm_head": (self.vocab_size, self.hidden_size),
        }


LLAMA_8B = Shapes(
    dtype=torch.bfloat16,
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    wide_vocab_size=151936,
    num_rows=(1, 16, 64, 512, 4096),
    step_tokens=(1, 64, 8192),
    decodes=tuple((batch, context) for batch in (1, 8, 64, 256) for context in (2048, 8192, 32768)),
    prefills=((1, 2048, 0), (1, 8192, 0), (4, 512, 0), (1, 512, 32256)),
    sliding_window=1024,
    num_choices=(1, 64, 256),
)

SMOLLM2_135M = Shapes(
    dtype=torch.float32,
    num_layers=30,
    hidden_size=576,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    wide_vocab_size=49152,
    num_rows=(1, 8, 32, 512),
    step_tokens=(1, 8, 512),
    decodes=((1, 128), (1, 1024), (8, 128), (32, 128), (32, 1024)),
    prefills=((1, 128, 0), (1, 1024, 0), (4, 128, 0), (1, 256, 1024)),
    sliding_window=256,
    num_choices=(1, 32),
)

TINY = Shapes(
    dtype=torch.float32,
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    vocab_size=300,
    wide_vocab_size=500,
    num_rows=(1, 16),
    step_tokens=(1, 16),
    decodes=((1, 64), (4, 128)),
    prefills=((1, 16, 0), (1, 64, 0), (2, 16, 48)),
    sliding_window=32,
    num_choices=(1, 4),
)

ALL_SHAPES = {"llama-8b": LLAMA_8B, "smollm2-135m": SMOLLM2_135M, "tiny": TINY}
