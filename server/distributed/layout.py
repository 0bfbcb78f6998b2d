"""How the ranks of a model share its work beside cutting its layers. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """See TensorParallelGroup. ``context_size`` ranks side by side deal the tokens of each sequence out among them; or so do the
    ``num_prompt_shares`` times that the layers of a stage are there: see ContextGroup."""

    context_size: int = 1
    interleave: int = 1
    shards_tokens: bool = False
    num_prompt_shares: int = 1
