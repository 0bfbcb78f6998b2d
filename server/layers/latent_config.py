"""The sizes of multi-head latent attention. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatentConfig:
    """See layers/latent_attention.py. Sizes of one head, but for the ranks of latents."""

    q_rank: int  # of the queries' own latent; 0: they are projected in one step
    kv_rank: int
    nope_dim: int  # of queries and keys: what is not rotated
    rope_dim: int
    v_dim: int

    @property
    def q_dim(self) -> int:
        return self.nope_dim + self.rope_dim

    @property
    def page_dim(self) -> int:
        """Numbers that the cache has of a token: the rotated key, then the latent."""
        return self.rope_dim + self.kv_rank
