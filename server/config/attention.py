"""Options about whose attention kernels run."""

from __future__ import annotations

from typing import Literal, Protocol

from headway.server.config.fields import Topic, option

_FLAG = "--attention-backend"
_LATENTS = "models with latent attention have Headway's own kernels: use auto"
_ON_CPU = "on a CPU there is one kind of kernels: use auto"

AttentionBackend = Literal["auto", "TRITON_ATTN", "FLASH_ATTN", "FLASHINFER"]
# Whose kernels they are: Headway's own, those of FlashAttention's second or third generation, FlashInfer's.
AttentionKind = Literal["own", "flash_attn_2", "flash_attn_3", "flashinfer"]


class AttentionConfig(Topic):
    """Attention."""

    attention_backend: AttentionBackend = option(
        "auto",
        "Whose attention kernels run on a GPU. auto: Headway's own, as with TRITON_ATTN. FLASH_ATTN (flash-attn, or on Hopper flash-attn-3 "
        "where that is installed) and FLASHINFER need the library in the image: kernels.md says how to add it, and what it can't do.",
        refused=(
            *((name, _LATENTS) for name in ("triton_mla", "flashmla", "flash_attn_mla", "flashinfer_mla", "cutlass_mla", "cpu_mla")),
            *((name, _ON_CPU) for name in ("cpu_attn", "torch_sdpa")),
        ),
    )

    @property
    def asks_for_library(self) -> bool:
        return self.attention_backend in ("FLASH_ATTN", "FLASHINFER")


class LibraryFacts(Protocol):
    """Of a library that was found, as kernels/attention_library.py tells them: this room may not import that one."""

    @property
    def kind(self) -> AttentionKind: ...

    @property
    def name(self) -> str:
        """With its version."""
        ...

    @property
    def page_multiple(self) -> int:
        """What the tokens of a page must be a multiple of."""
        ...

    @property
    def head_dims(self) -> frozenset[int]: ...

    @property
    def is_capturable(self) -> bool:
        """Whether CUDA graphs can have its calls."""
        ...


def attention_problems(attention: AttentionConfig, device: str, context_sizes: dict[str, int]) -> list[str]:
    """A sentence for each thing that can't be served. ``context_sizes``: flag -> its value, of those by which ranks share sequences."""
    asked = attention.attention_backend
    if asked == "auto":
        return []
    if device == "cpu":
        return [on_a_cpu(asked)]
    if not attention.asks_for_library:
        return []
    why = "ranks that share a sequence merge their parts of it with Headway's own kernels"
    return [
        f"{_FLAG} {asked} does not go with {flag} {size}: {why}; leave one of them out" for flag, size in context_sizes.items() if size > 1
    ]


def on_a_cpu(asked: AttentionBackend) -> str:
    return f"{_FLAG} {asked} is for GPUs, and this runs on a CPU: leave it out"


def library_problems(
    asked: AttentionBackend, library: LibraryFacts, *, dtype: str, pages: str, page_size: int, captures: bool
) -> list[str]:
    """What a plan has that the library can't take. ``pages``: the type of the KV cache; ``captures``: CUDA graphs are asked for by size."""
    found, flag = [], f"{_FLAG} {asked}"
    if dtype not in ("float16", "bfloat16"):
        found.append(f"{flag}: {library.name} computes in float16 and bfloat16, not in {dtype}: set --dtype auto, or leave it out")
    elif pages != dtype:
        found.append(
            f"{flag}: keys and values are read as the model has them, not in {pages}: set --kv-cache-dtype {dtype}, or leave it out"
        )
    if page_size % library.page_multiple:
        multiple = library.page_multiple
        found.append(
            f"{flag}: {library.name} reads pages of {multiple} tokens, and --block-size is {page_size}: use a multiple of {multiple}"
        )
    if captures and not library.is_capturable:
        found.append(
            f"{flag}: each step of {library.name} is planned by the host, so none can be captured: leave out --cudagraph-capture-sizes"
        )
    return found
