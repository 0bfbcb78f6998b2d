"""The figures of simulations: told as JSON and as a table, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sim_cluster import Outcome
from sim_quantiles import Quantiles
from sim_watch import peak_gib

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Figures(msgspec.Struct):
    """Of one policy at one load. Percentiles and counted tokens are those of the requests after the first ones, which fill the caches."""

    date: str
    policy: str
    servers: int
    requests_per_s_a_server: float
    requests: int
    requests_counted: int
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    e2e_s: dict[str, float]
    prompt_tokens_counted: int
    output_tokens_counted: int
    prompt_tokens_cached: float  # 0 to 1
    servers_busy: float  # 0 to 1
    steps: int
    virtual_s: float
    wall_s: float
    cpu_s: float
    peak_gib: float  # of the process, until then


def figures_of(
    seen: Outcome, *, date: str, policy: str, servers: int, requests_per_s_a_server: float, wall_s: float, cpu_s: float
) -> Figures:
    return Figures(
        date=date,
        policy=policy,
        servers=servers,
        requests_per_s_a_server=requests_per_s_a_server,
        requests=seen.num_requests,
        requests_counted=seen.ttft_s.num_values,
        ttft_s=_percentiles(seen.ttft_s),
        tpot_s=_percentiles(seen.tpot_s),
        e2e_s=_percentiles(seen.e2e_s),
        prompt_tokens_counted=seen.num_prompt_tokens,
        output_tokens_counted=seen.num_output_tokens,
        prompt_tokens_cached=round(seen.hit_rate, 4),
        servers_busy=round(seen.utilization, 4),
        steps=seen.num_steps,
        virtual_s=round(seen.end_s, 3),
        wall_s=round(wall_s, 1),
        cpu_s=round(cpu_s, 1),
        peak_gib=round(peak_gib(), 2),
    )


def write_figures(rows: Sequence[Figures], path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


def read_figures(paths: Sequence[Path]) -> list[Figures]:
    """By load and policy. Raises OSError, and msgspec.MsgspecError for what is none."""
    rows = [row for path in paths for row in msgspec.json.decode(path.read_bytes(), type=list[Figures])]
    return sorted(rows, key=lambda row: (row.requests_per_s_a_server, row.policy))


def table(rows: Sequence[Figures]) -> str:
    lines = [
        "| requests/s a server | policy | TTFT p50, s | p99, s | TPOT p50, ms | p99, ms | end to end p50, s | p99, s | prompt cached |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ttft, e2e = (f"{seconds['p50']:.3f} | {seconds['p99']:.3f}" for seconds in (row.ttft_s, row.e2e_s))
        tpot = f"{row.tpot_s['p50'] * 1e3:.1f} | {row.tpot_s['p99'] * 1e3:.1f}"
        lines.append(f"| {row.requests_per_s_a_server:g} | {row.policy} | {ttft} | {tpot} | {e2e} | {row.prompt_tokens_cached:.0%} |")
    return "\n".join(lines)


def cost_of(rows: Sequence[Figures]) -> str:
    """Of simulating them."""
    num_requests, num_steps = sum(row.requests for row in rows), sum(row.steps for row in rows)
    wall_s, cpu_s = sum(row.wall_s for row in rows), sum(row.cpu_s for row in rows)
    return (
        f"{num_requests:,} requests, {num_steps:,} steps in {wall_s:.0f} s, {cpu_s:.0f} s of CPU time: "
        f"{num_requests / max(cpu_s, 0.1):,.0f} requests a second of it; {max(row.peak_gib for row in rows):.2f} GiB at the peak"
    )


def plot(rows: Sequence[Figures], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), dpi=90, layout="constrained")
    for axes, percentile in zip(figure.subplots(1, 2, sharey=True), ("p50", "p99"), strict=True):
        for policy, marker in zip(dict.fromkeys(row.policy for row in rows), "o^sx", strict=False):
            mine = [row for row in rows if row.policy == policy]
            ttft_s = [row.ttft_s[percentile] for row in mine]
            axes.plot([row.requests_per_s_a_server for row in mine], ttft_s, marker=marker, alpha=0.7, label=policy)
        axes.set(yscale="log", xlabel="requests/s a server", title=percentile)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time to first token, s")
    figure.axes[0].legend()
    figure.savefig(path)


def _percentiles(values: Quantiles) -> dict[str, float]:
    return {label: float(f"{values.at(share):.4g}") for label, share in _SHARES.items()}
