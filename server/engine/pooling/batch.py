"""The border between the scheduler of texts to pool and their runner: a step is whole texts, and nothing of one outlives its step."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.types import Pooled, PoolRequest


@dataclass(slots=True, frozen=True)
class PoolingPlan:
    """One step. Filled by the scheduler."""

    requests: list[PoolRequest]

    @property
    def num_tokens(self) -> int:
        return sum(len(request.prompt_token_ids) for request in self.requests)


@dataclass(slots=True, frozen=True)
class PoolingRow:
    """What a step gave for one text. Filled by the runner: a result, or the error that isolates a text which broke."""

    pooled: Pooled | None
    error: str | None = None


@dataclass(slots=True, frozen=True)
class PoolingResult:
    """Parallel to ``PoolingPlan.requests``."""

    rows: list[PoolingRow]
