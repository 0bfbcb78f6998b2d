"""Metrics of speculative decoding, where it is on, and its line of statistics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.series import Series
from headway.server.engine.client import EngineClient
from headway.server.stats import DraftStats


class DraftCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engines last told."""

    def __init__(self, engine: EngineClient, series: Series, num_positions: int) -> None:
        """``num_positions``: most drafts of a request in a step."""
        self._engine = engine
        self._series = series
        self._unknown = DraftStats(num_accepted=(0,) * num_positions)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        series = self._series
        told = [engine.stats.drafts or self._unknown for engine in self._engine.engines]
        drafted, accepted = (one.num_draft_tokens for one in told), (one.num_accepted_tokens for one in told)
        yield series.counter_family("spec_decode_num_drafts", "Drafts verified, of one or more tokens.", (one.num_drafts for one in told))
        yield series.counter_family("spec_decode_num_draft_tokens", "Tokens of drafts.", drafted)
        yield series.counter_family("spec_decode_num_accepted_tokens", "Those that were right.", accepted)
        positions = ({str(at): float(count) for at, count in enumerate(one.num_accepted)} for one in told)
        yield series.counter_families(
            "spec_decode_num_accepted_tokens_per_pos", "The same, by their place in a draft.", "position", positions
        )


def draft_line(before: DraftStats, now: DraftStats, seconds: float) -> str | None:
    """Of the time between the two, in vLLM's words; None if nothing was drafted."""
    num_drafts, num_tokens = now.num_drafts - before.num_drafts, now.num_draft_tokens - before.num_draft_tokens
    if num_drafts <= 0:
        return None
    earlier = before.num_accepted or (0,) * len(now.num_accepted)
    accepted = [there - here for here, there in zip(earlier, now.num_accepted, strict=True)]
    rates = ", ".join(f"{count / num_drafts:.3f}" for count in accepted)
    return (
        f"SpecDecoding metrics: Mean acceptance length: {1 + sum(accepted) / num_drafts:.2f}, "
        f"Accepted throughput: {sum(accepted) / seconds:.2f} tokens/s, Drafted throughput: {num_tokens / seconds:.2f} tokens/s, "
        f"Accepted: {sum(accepted)} tokens, Drafted: {num_tokens} tokens, Per-position acceptance rate: {rates}, "
        f"Avg Draft acceptance rate: {sum(accepted) / num_tokens:.1%}"
    )
