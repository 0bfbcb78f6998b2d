"""From single timings to the figures that are reported: a summary, its table, its JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from headway.server.bench.outcome import Outcome


@dataclass(slots=True, frozen=True)
class Spread:
    """Milliseconds. NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(slots=True, frozen=True)
class Summary:
    """A run in figures; token counts are the server's own (``usage``), chunks counted for requests that came without."""

    num_requests: int
    num_errors: int
    errors: dict[str, int]  # message -> how often
    wall_s: float
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    num_without_usage: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2e_ms: Spread

    def as_json(self) -> dict[str, Any]:
        """NaN, which JSON does not have, becomes null."""
        data = asdict(self)
        for key, value in data.items():
            if isinstance(value, dict):
                data[key] = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in value.items()}
        return data


def summarize(outcomes: Sequence[Outcome], wall_s: float) -> Summary:
    """Failed requests count as errors and in nothing else."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    errors = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    num_prompt, num_output = sum(o.num_prompt_tokens for o in good), sum(o.num_output_tokens for o in good)
    wall = wall_s or math.nan
    return Summary(
        num_requests=len(outcomes),
        num_errors=len(outcomes) - len(good),
        errors=dict(errors.most_common()),
        wall_s=wall_s,
        num_prompt_tokens=num_prompt,
        num_cached_tokens=sum(o.num_cached_tokens for o in good),
        num_output_tokens=num_output,
        num_without_usage=sum(not o.has_usage for o in good),
        requests_per_s=len(good) / wall,
        output_tokens_per_s=num_output / wall,
        total_tokens_per_s=(num_prompt + num_output) / wall,
        ttft_ms=spread([o.ttft_s for o in good]),
        tpot_ms=spread([o.tpot_s for o in good if o.tpot_s is not None]),
        itl_ms=spread([gap for o in good for gap in o.itl_s]),
        e2e_ms=spread([o.e2e_s for o in good]),
    )


def spread(seconds: Sequence[float]) -> Spread:
    ordered = sorted(value * 1e3 for value in seconds)
    mean = sum(ordered) / len(ordered) if ordered else math.nan
    return Spread(mean, percentile(ordered, 50), percentile(ordered, 90), percentile(ordered, 99), ordered[-1] if ordered else math.nan)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values, linear between neighbours (numpy's default); NaN of nothing."""
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary_table(summary: Summary, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("", "mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for label, values in (
        ("TTFT ms", summary.ttft_ms),
        ("TPOT ms", summary.tpot_ms),
        ("ITL ms", summary.itl_ms),
        ("end to end ms", summary.e2e_ms),
    ):
        table.add_row(label, *(_number(value) for value in (values.mean, values.p50, values.p90, values.p99, values.max)))
    table.add_section()
    num_tokens = summary.num_prompt_tokens + summary.num_output_tokens
    for row in (
        ("requests", f"{summary.num_requests - summary.num_errors} ok", f"{summary.requests_per_s:.2f}/s", f"{summary.num_errors} failed"),
        ("prompt tokens", str(summary.num_prompt_tokens), "", f"{summary.num_cached_tokens} cached"),
        ("output tokens", str(summary.num_output_tokens), f"{summary.output_tokens_per_s:.1f}/s"),
        ("all tokens", str(num_tokens), f"{summary.total_tokens_per_s:.1f}/s", f"in {summary.wall_s:.1f} s"),
    ):
        table.add_row(*row)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
