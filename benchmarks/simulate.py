"""Latency against load, by the router's policy, without the servers: `python benchmarks/simulate.py --help`.

The engine's scheduler and KV cache and the router's policies are the real ones; the time of a step comes from a cost model that was fitted
to measurements. `--validate` holds it against a measured run that it was not fitted to. It is made for up to 1,000 servers and 10 million
requests: they are made as they are replayed, times are counted by bucket, and steps that are alike are taken in one go (sim_scheduler.py
says why that changes nothing).
"""

from __future__ import annotations

import argparse
import datetime
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sim_cluster import Cluster, Outcome
from sim_server import H200_LLAMA_8B, Limits
from sim_trace import BLOCK_TOKENS, Shape, TracedRequest, make_trace, read_trace

from headway.server.garbage import spare_long_lived
from headway.server.router.policies.choice import POLICIES

# benchmarks/results/2026-11-26-h200.md: 256 requests at once, 1024 tokens in and 256 out.
_MEASURED_S = 10.863


@dataclass(frozen=True, slots=True)
class Row:
    policy: str
    requests_per_s: float  # of a server
    outcome: Outcome


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    spare_long_lived()
    if options.validate:
        return _validate()
    print(f"{datetime.date.today()}: {options.servers} servers, {options.requests:,} requests each line\n")
    rows, started, used = [], time.perf_counter(), time.process_time()
    for rate in options.rates:
        for name in options.policies:
            cluster = Cluster(options.servers, POLICIES[name](), H200_LLAMA_8B, Limits.of_blocks(options.block_size))
            try:
                rows.append(Row(name, rate, cluster.replay(_requests(options, rate))))
            except (OSError, msgspec.MsgspecError) as problem:
                raise SystemExit(f"--trace {options.trace}: {problem}") from None
            print(".", end="", file=sys.stderr, flush=True)
    print(_table(rows))
    print(f"\n{_rate_of_simulation(rows, time.perf_counter() - started, time.process_time() - used)}")
    if options.plot is not None:
        _plot(rows, options.plot)
    return 0


def _rate_of_simulation(rows: Sequence[Row], seconds: float, cpu_s: float) -> str:
    num_requests = sum(row.outcome.ttft_s.num_values for row in rows)
    num_tokens = sum(row.outcome.num_output_tokens for row in rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    num_steps = sum(row.outcome.num_steps for row in rows)
    return (
        f"{num_requests:,} requests, {num_tokens:,} output tokens, {num_steps:,} steps in {seconds:.0f} s, {cpu_s:.0f} s of CPU time: "
        f"{num_requests / cpu_s:,.0f} requests a second of it; {peak:.1f} GiB at the peak"
    )


def _requests(options: argparse.Namespace, rate: float) -> Iterable[TracedRequest]:
    if options.trace is not None:
        return read_trace(options.trace, rate)
    return make_trace(Shape(), rate * options.servers, options.requests, options.seed)


def _validate() -> int:
    """Exit status 1 if the simulated run is more than 15% off."""
    at_once = [TracedRequest(0.0, 1024, 256, [2 * number, 2 * number + 1]) for number in range(256)]
    outcome = Cluster(1, POLICIES["round-robin"](), H200_LLAMA_8B, Limits()).replay(at_once)
    off = outcome.end_s / _MEASURED_S - 1
    print(f"256 requests of {2 * BLOCK_TOKENS} in and 256 out: {outcome.end_s:.2f} s simulated, {_MEASURED_S:.2f} s measured ({off:+.1%})")
    return int(abs(off) > 0.15)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Latency against load, by the router's policy, in virtual time.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--servers", type=_count, default=16)
    parser.add_argument("--requests", type=_count, default=10_000, help="to replay, of the trace that is made")
    parser.add_argument(
        "--block-size", type=_count, default=16, help="tokens of a KV block; 512 suits the trace that is made, and is faster"
    )
    rates = [8.0, 16.0, 24.0, 32.0]
    parser.add_argument("--rates", type=_rates, default=rates, help="requests a second and server; of --trace, its speed")
    parser.add_argument("--policies", type=_policies, default=list(POLICIES), help="some of these")
    parser.add_argument("--trace", type=Path, metavar="FILE.jsonl", help="a trace in Mooncake's form, in the place of the one that is made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE.png", help="draw the curves; needs matplotlib")
    parser.add_argument("--validate", action="store_true", help="only hold the cost model against a measured run")
    return parser


def _rates(text: str) -> list[float]:
    rates = [float(number) for number in text.split(",")]
    if min(rates) <= 0:
        raise argparse.ArgumentTypeError(f"a rate is more than 0, got {text}")
    return rates


def _policies(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(POLICIES):
        raise argparse.ArgumentTypeError(f"{min(unknown)} is none of {', '.join(POLICIES)}")
    return names


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text}")
    return count


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| requests/s a server | policy | TTFT p50, s | p99, s | TPOT p50, ms | p99, ms | prompt tokens cached | servers busy |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        seen = row.outcome
        ttft = " | ".join(f"{seen.ttft_s.at(share):.3f}" for share in (0.5, 0.99))
        tpot = " | ".join(f"{seen.tpot_s.at(share) * 1e3:.1f}" for share in (0.5, 0.99))
        lines.append(f"| {row.requests_per_s:g} | {row.policy} | {ttft} | {tpot} | {seen.hit_rate:.0%} | {seen.utilization:.0%} |")
    return "\n".join(lines)


def _plot(rows: Sequence[Row], path: str) -> None:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
