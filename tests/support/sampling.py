"""A step of the sampler, whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from headway.server.engine.sampler import SampledTokens, SamplingState


def sample(state: SamplingState, logits: Tensor, rows: Sequence[int]) -> SampledTokens:
    """Chooses, and waits for what was chosen."""
    return state.choose(logits, rows).finish()
