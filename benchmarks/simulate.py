"""Latency against load, by the router's policy, without the servers: `python benchmarks/simulate.py --help`.

The engine's scheduler and KV cache and the router's policies are the real ones; the time of a step comes from a cost model that was fitted
to measurements. `--validate` holds it against a measured run that it was not fitted to. It is made for up to 1,000 servers and 10 million
requests: they are made as they are replayed, times are counted by bucket, and rows that decode are not touched (sim_scheduler.py says why
that changes nothing). The first SIGINT or SIGTERM ends the trace there: what has arrived is finished, and the figures are those of that.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from sim_cluster import Cluster
from sim_report import Figures, cost_of, figures_of, plot, read_figures, table, write_figures
from sim_server import H200_LLAMA_8B, Limits
from sim_trace import BLOCK_TOKENS, Shape, TracedRequest, make_trace, read_trace
from sim_watch import Watch

from headway.server.garbage import collect_spared, spare_long_lived
from headway.server.router.policies.choice import POLICIES

# benchmarks/results/2026-11-26-h200.md: 256 requests at once, 1024 tokens in and 256 out.
_MEASURED_S = 10.863


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.validate:
        return _validate()
    if options.figures is not None:
        try:
            rows = read_figures(options.figures)
        except (OSError, msgspec.MsgspecError) as problem:
            raise SystemExit(f"--figures: {problem}") from None
    else:
        print(f"{datetime.date.today()}: {options.servers} servers, {options.requests:,} requests each line\n")
        rows = _simulate_all(options)
    print(f"{table(rows)}\n\n{cost_of(rows)}")
    if options.plot is not None:
        plot(rows, options.plot)
    return 0


def _simulate_all(options: argparse.Namespace) -> list[Figures]:
    watch = Watch(options.progress, None if options.trace else options.requests)
    rows: list[Figures] = []
    with watch.ending_early():
        for rate, name in itertools.product(options.rates, options.policies):
            rows.append(_simulate(options, rate, name, watch))
            if options.json is not None:
                write_figures(rows, options.json)
            if watch.is_over:
                break
    return rows


def _simulate(options: argparse.Namespace, rate: float, policy: str, watch: Watch) -> Figures:
    collect_spared()  # the cluster before this one
    cluster = Cluster(options.servers, POLICIES[policy](), H200_LLAMA_8B, Limits.of_blocks(options.block_size))
    spare_long_lived()
    num_uncounted = options.warm_up
    if num_uncounted is None:
        num_uncounted = options.requests // 10 if options.trace is None else 0
    started, used = time.perf_counter(), time.process_time()
    try:
        outcome = cluster.replay(watch.over(_requests(options, rate), f"{policy} at {rate:g}"), num_uncounted)
    except (OSError, msgspec.MsgspecError) as problem:
        raise SystemExit(f"--trace {options.trace}: {problem}") from None
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - used
    return figures_of(
        outcome,
        date=str(datetime.date.today()),
        policy=policy,
        servers=options.servers,
        requests_per_s_a_server=rate,
        wall_s=wall_s,
        cpu_s=cpu_s,
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
    rates = [4.0, 8.0, 10.0, 12.0]
    parser.add_argument("--rates", type=_rates, default=rates, help="requests a second and server; of --trace, its speed")
    parser.add_argument("--policies", type=_policies, default=list(POLICIES), help="some of these")
    parser.add_argument("--trace", type=Path, metavar="FILE.jsonl", help="a trace in Mooncake's form, in the place of the one that is made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--warm-up",
        type=_count_or_none,
        metavar="N",
        help="requests that fill the caches and are not counted; a tenth of --requests, of --trace none",
    )
    parser.add_argument("--progress", type=_count, default=100_000, metavar="N", help="a line on stderr every so many requests")
    parser.add_argument("--json", type=Path, metavar="FILE.json", help="write all figures, as they come")
    parser.add_argument("--figures", type=Path, nargs="+", metavar="FILE.json", help="what --json wrote, instead of simulating")
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


def _count_or_none(text: str) -> int:
    if (count := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"at least 0, got {text}")
    return count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
