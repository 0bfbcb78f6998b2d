"""Drafts that a model makes where the tensors are: the scheduler only says how many."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.engine.batch import UNDRAWN


class UndrawnProposer:
    """See Proposer. Each request always gets as many as there is room for."""

    def propose(self, request_id: str, token_ids: Sequence[int], num_drafts: int) -> list[int]:
        return [UNDRAWN] * num_drafts

    def forget(self, request_id: str) -> None:
        """Nothing is known of it here."""
