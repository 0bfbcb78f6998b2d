"""How one request went, whoever ran it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """How one request went: ``time.perf_counter()`` seconds. ``error`` None is success."""

    started: float
    ended: float = 0.0
    chunk_times: list[float] = field(default_factory=list)  # of each event that carried text
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    has_usage: bool = False
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        return self.chunk_times[0] - self.started

    @property
    def e2e_s(self) -> float:
        return self.ended - self.started

    @property
    def tpot_s(self) -> float | None:
        """Seconds an output token after the first; None for a single token."""
        steps = self.num_output_tokens - 1
        return (self.chunk_times[-1] - self.chunk_times[0]) / steps if steps > 0 else None

    @property
    def itl_s(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.chunk_times, self.chunk_times[1:], strict=False)]
