"""The figures of a simulation: as a table, as JSON, and drawn."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sim_cluster import Outcome
from sim_watch import peak_gib

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True)
class Row:
    policy: str
    requests_per_s: float  # of a server
    num_servers: int
    outcome: Outcome
    wall_s: float
    cpu_s: float


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| requests/s a server | policy | TTFT p50, s | p99, s | TPOT p50, ms | p99, ms | end to end p50, s | p99, s "
        "| prompt tokens cached | servers busy |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seen = row.outcome
        ttft, e2e = (" | ".join(f"{seconds.at(share):.3f}" for share in (0.5, 0.99)) for seconds in (seen.ttft_s, seen.e2e_s))
        tpot = " | ".join(f"{seen.tpot_s.at(share) * 1e3:.1f}" for share in (0.5, 0.99))
        lines.append(f"| {row.requests_per_s:g} | {row.policy} | {ttft} | {tpot} | {e2e} | {seen.hit_rate:.0%} | {seen.utilization:.0%} |")
    return "\n".join(lines)


def rate_of_simulation(rows: Sequence[Row]) -> str:
    num_requests = sum(row.outcome.num_requests for row in rows)
    num_steps = sum(row.outcome.num_steps for row in rows)
    wall_s, cpu_s = sum(row.wall_s for row in rows), sum(row.cpu_s for row in rows)
    return (
        f"{num_requests:,} requests, {num_steps:,} steps in {wall_s:.0f} s, {cpu_s:.0f} s of CPU time: "
        f"{num_requests / max(cpu_s, 1e-9):,.0f} requests a second of it; {peak_gib():.2f} GiB at the peak"
    )


def write_json(rows: Sequence[Row], path: Path) -> None:
    figures = {"date": str(datetime.date.today()), "peak_gib": round(peak_gib(), 3), "rows": [_figures_of(row) for row in rows]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")


def _figures_of(row: Row) -> dict[str, Any]:
    seen = row.outcome
    seconds = {"ttft_s": seen.ttft_s, "tpot_s": seen.tpot_s, "e2e_s": seen.e2e_s}
    return {
        "policy": row.policy,
        "servers": row.num_servers,
        "requests_per_s_a_server": row.requests_per_s,
        "requests": seen.num_requests,
        "requests_counted": seen.ttft_s.num_values,
        **{name: {label: float(f"{values.at(share):.4g}") for label, share in _SHARES.items()} for name, values in seconds.items()},
        "prompt_tokens_counted": seen.num_prompt_tokens,
        "output_tokens_counted": seen.num_output_tokens,
        "prompt_tokens_cached": round(seen.hit_rate, 4),
        "servers_busy": round(seen.utilization, 4),
        "steps": seen.num_steps,
        "virtual_s": round(seen.end_s, 3),
        "wall_s": round(row.wall_s, 1),
        "cpu_s": round(row.cpu_s, 1),
    }


def plot(rows: Sequence[Row], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), dpi=90, layout="constrained")
    for axes, share in zip(figure.subplots(1, 2, sharey=True), (0.5, 0.99), strict=True):
        for policy, marker in zip(dict.fromkeys(row.policy for row in rows), "o^sx", strict=False):
            mine = [row for row in rows if row.policy == policy]
            ttft_s = [row.outcome.ttft_s.at(share) for row in mine]
            axes.plot([row.requests_per_s for row in mine], ttft_s, marker=marker, alpha=0.7, label=policy)
        axes.set(yscale="log", xlabel="requests/s a server", title=f"p{share * 100:.0f}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time to first token, s")
    figure.axes[0].legend()
    figure.savefig(path)
