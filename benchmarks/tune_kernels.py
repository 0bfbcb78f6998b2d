"""Makes the table of measured tiles for the GPU that it runs on: `python benchmarks/tune_kernels.py`.

Each candidate's result is compared with the reference before it is timed. What an earlier run put into the table stays unless it is tuned
again, so a table can be made in several runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from kernel_case import ALL_SHAPES
from tuned_problems import problems
from tuning import Found, Problem, search

from headway.kernels.gpu.device import chip
from headway.kernels.tuned import TABLES

Table = dict[str, dict[str, dict[str, dict[str, int]]]]


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a problem has no solution that is right."""
    options = _parser().parse_args(argv)
    device = torch.device(options.device)
    if device.type != "cuda" and not options.out:
        print("Tables are for GPUs, and there is none here: name a file with --out to try the search.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    out = Path(options.out) if options.out else TABLES / f"{chip(device)}.json"
    table: Table = json.loads(out.read_text()) if out.exists() else {}
    deadline = time.perf_counter() + options.seconds
    found_all = True
    pool: Executor | None = ThreadPoolExecutor(options.jobs) if options.jobs > 1 else None
    with pool or nullcontext():
        wanted = [
            problem for problem in problems(ALL_SHAPES[options.shapes], options.rows, device) if re.search(options.only, problem.name)
        ]
        for index, problem in enumerate(wanted):
            now = time.perf_counter()
            if now >= deadline:
                print(f"no time left for {len(wanted) - index} problems, from {problem.name!r} on", flush=True)
                break
            found = _solve(problem, device, now + (deadline - now) / (len(wanted) - index), pool)
            if found is None:
                found_all = False
                continue
            sizes = table.setdefault(problem.operation, {}).setdefault("x".join(map(str, problem.sizes)), {})
            sizes[str(problem.count)] = asdict(found.tiles)
            write_table(out, table)
    return 0 if found_all else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a chip's tiles.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the kernels run")
    parser.add_argument("--shapes", choices=sorted(ALL_SHAPES), default="llama-8b", help="the model whose sizes are tuned")
    parser.add_argument("--rows", type=_numbers, default=(1, 16, 64, 256, 1024, 4096), help="of products, joined by commas")
    parser.add_argument("--only", default="", metavar="PATTERN", help="a regular expression that `operation sizes count` must contain")
    parser.add_argument("--seconds", type=float, default=300.0, help="shared out evenly among what is to be tuned")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 16), help="threads that compile")
    parser.add_argument("--out", metavar="FILE", help="instead of the chip's table in the package")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _solve(problem: Problem, device: torch.device, deadline: float, pool: Executor | None) -> Found | None:
    try:
        found = search(problem, device, deadline, pool)
    except torch.OutOfMemoryError as cause:
        print(f"{problem.name}: FAILED: {str(cause).splitlines()[0]}", flush=True)
        found = None
    else:
        print(f"{problem.name}: {_outcome(found)}", flush=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _outcome(found: Found | None) -> str:
    if found is None:
        return "FAILED: nothing that was tried gave the right result"
    wrong = [f"{tiles}: {why}" for tiles, why in found.failures.items() if why.startswith("wrong")]
    estimate = "failed" if found.estimate_s is None else f"{found.estimate_s * 1e6:.2f} us"
    text = f"{found.seconds * 1e6:.2f} us, estimated tiles {estimate}; {found.tiles}; {found.num_timed} timed, {len(found.failures)} failed"
    return "\n  ".join([text, *wrong])


def write_table(out: Path, table: Table) -> None:
    """A line an entry, so that changes can be read."""
    text = json.dumps({operation: _sorted(table[operation]) for operation in sorted(table)}, indent=1)
    out.parent.mkdir(exist_ok=True)
    out.write_text(re.sub(r"\{([^{}]+)\}", lambda entry: "{" + " ".join(entry[1].split()) + "}", text) + "\n")


def _sorted(sizes: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, dict[str, int]]]:
    return {name: dict(sorted(sizes[name].items(), key=lambda entry: int(entry[0]))) for name in sorted(sizes)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
