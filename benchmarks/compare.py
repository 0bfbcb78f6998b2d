"""Headway and its peers on the same work, in one go: `python benchmarks/compare.py --help`.

One server runs at a time, on a free port of the loopback address. Every round starts each server anew and gives it all works; the
order of the servers turns round from round to round, so that a machine that drifts favours none. All get the same prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from peers import Peer, add_options, chosen_peers
from rich.console import Console
from tables import LEGEND, Cell, ServerRun, result_tables
from work_limits import MachineLimits, bound_s, machine_limits

from headway.server.bench.client import Session, Work
from headway.server.bench.errors import BenchError
from headway.server.bench.load import Pace, run_load
from headway.server.bench.machine import CpuMeter, describe_machine, tree_rss_bytes
from headway.server.bench.prompts import CountTokens, PromptMaker, calibrated_counter, tokenizer_counter
from headway.server.bench.report import summarize
from headway.server.bench.server_process import ServerFailed, ServerProcess, free_port

_WARMUP_OUTPUT_LEN = 8


@dataclass(slots=True, frozen=True)
class Job:
    """A work: ``clients`` at a time, each with one request open, until ``num_requests`` are done."""

    name: str
    clients: int
    input_len: int
    output_len: int
    num_requests: int
    prefix_len: int = 0

    def bound_s(self, limits: MachineLimits) -> float:
        sizes = {"input_len": self.input_len, "output_len": self.output_len, "prefix_len": self.prefix_len}
        return bound_s(limits, clients=self.clients, num_requests=self.num_requests, **sizes)


JOBS = {
    job.name: job
    for job in (
        Job("c1", 1, 128, 128, num_requests=4),
        Job("c8", 8, 128, 64, num_requests=24),
        Job("c32", 32, 128, 64, num_requests=64),
        Job("prefill", 4, 1024, 16, num_requests=12),
        Job("prefix", 8, 32, 32, num_requests=24, prefix_len=1024),
    )
}


class Comparison:
    """All runs of one comparison. Prompts are made once, when the first server can say how many tokens they have."""

    def __init__(self, options: argparse.Namespace, jobs: Sequence[Job], console: Console) -> None:
        self.runs: list[ServerRun] = []
        self._options = options
        self._jobs = jobs
        self._console = console
        self._prompts: dict[str, list[str]] = {}

    def run(self, peers: Sequence[Peer]) -> None:
        for round_index in range(self._options.rounds):
            for peer in peers if round_index % 2 == 0 else reversed(peers):
                self._console.print(f"round {round_index + 1}: {peer.name}", style="bold")
                self.runs.append(self._serve_and_measure(peer, round_index))

    def _serve_and_measure(self, peer: Peer, round_index: int) -> ServerRun:
        """A server that fails is a result too: the others go on."""
        port = free_port()
        run = ServerRun(peer.name, round_index)
        try:
            with ServerProcess(peer.command(port), peer.environment(os.environ), f"http://127.0.0.1:{port}") as server:
                meter = CpuMeter(server.pid)
                run.ready_s = server.wait_ready(peer.ready_limit_s)
                run.ready_others_cpu = meter.read().others
                run.rss_bytes = tree_rss_bytes(server.pid)
                self._console.print(f"  ready after {run.ready_s:.1f} s")
                asyncio.run(self._measure(server, run))
        except (ServerFailed, BenchError) as failure:
            run.failure = str(failure)
            self._console.print(f"  {peer.name} failed: {failure}", style="red", markup=False, soft_wrap=True)
        return run

    async def _measure(self, server: ServerProcess, run: ServerRun) -> None:
        async with Session(server.url, timeout_s=self._options.timeout) as session:
            model = await session.first_model()
            for job in self._jobs:
                work = Work(model, "completions", job.output_len, ignore_eos=True)
                prompts = await self._prompts_for(job, session, work)
                warmup = await session.generate(work, prompts[-1], min(_WARMUP_OUTPUT_LEN, job.output_len))
                if warmup.error:
                    raise BenchError(f"{job.name}: the warm-up request failed: {warmup.error}")
                await self._wait_quiet(server.pid)
                meter = CpuMeter(server.pid)
                load = await run_load(session, work, prompts[:-1], Pace(concurrency=job.clients))
                cpu = meter.read()
                cell = Cell(job.name, summarize(load.outcomes, load.wall_s), cpu, cpu.others + cpu.stolen > self._options.max_other_cpu)
                run.cells.append(cell)
                self._console.print(f"  {cell.line()}", soft_wrap=True, highlight=False)

    async def _prompts_for(self, job: Job, session: Session, work: Work) -> list[str]:
        """One more than the job needs: the last is for the warm-up."""
        if job.name not in self._prompts:
            count = await self._counter(session, work)
            # A seed of each job's own: the same prompts in two jobs would come out of the prefix cache in the second.
            maker = PromptMaker(count, job.input_len, job.prefix_len, f"{self._options.seed} {job.name}")
            self._prompts[job.name] = maker.prompts(job.num_requests + 1)
        return self._prompts[job.name]

    async def _counter(self, session: Session, work: Work) -> CountTokens:
        if self._options.tokenizer:
            return tokenizer_counter(Path(self._options.tokenizer))
        return await calibrated_counter(lambda text: session.count_prompt_tokens(work, text), self._options.seed)

    async def _wait_quiet(self, server_pid: int) -> None:
        """Waits until others leave the cores alone, at most ``--quiet-wait`` seconds."""
        limit = time.perf_counter() + self._options.quiet_wait
        while time.perf_counter() < limit:
            meter = CpuMeter(server_pid)
            await asyncio.sleep(1.0)
            if meter.read().others <= self._options.max_other_cpu:
                return


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a server failed or a request did; 2 for wrong options."""
    parser = _parser()
    options = parser.parse_args(argv)
    console = Console()
    try:
        peers = chosen_peers(options)
        jobs = _chosen_jobs(options)
        if options.tokenizer:
            tokenizer_counter(Path(options.tokenizer))
        limits = machine_limits(peers[0].environment(os.environ))
    except (ValueError, BenchError) as error:
        parser.error(str(error))
    # A benchmark that is told to stop must stop its server too.
    # Both, since a shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    comparison = Comparison(options, jobs, console)
    console.print(limits.line())
    try:
        comparison.run(peers)
    except KeyboardInterrupt:
        console.print("stopped; what is done follows", style="yellow")
    names, job_names = [peer.name for peer in peers], [job.name for job in jobs]
    for table in result_tables(comparison.runs, names, job_names, {job.name: job.bound_s(limits) for job in jobs}):
        console.print(table)
    console.print(LEGEND, soft_wrap=True)
    if options.json:
        Path(options.json).write_text(json.dumps(_record(options, peers, jobs, limits, comparison.runs), indent=2) + "\n")
    failed = [run for run in comparison.runs if run.failure or any(cell.summary.num_errors for cell in run.cells)]
    return 1 if failed or not comparison.runs else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Headway and its peers on the same work, in one go.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work", default=",".join(JOBS), help="works, with commas between them")
    parser.add_argument("--rounds", type=int, default=2, help="how often each server is started and measured")
    parser.add_argument("--quick", action="store_true", help="only as many requests as there are clients: to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write all figures, the machine and the versions here")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json for prompts of exact length; else by usage")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds until a request counts as failed")
    parser.add_argument("--max-other-cpu", type=float, default=0.15, help="cores that others may use before a figure is ignored")
    parser.add_argument("--quiet-wait", type=float, default=0.0, help="seconds to wait for a quiet machine before each work")
    add_options(parser)
    return parser


def _chosen_jobs(options: argparse.Namespace) -> list[Job]:
    names = [name.strip() for name in options.work.split(",") if name.strip()]
    unknown = [name for name in names if name not in JOBS]
    if unknown or not names:
        raise ValueError(f"--work {options.work}: choose from {', '.join(JOBS)}")
    if options.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {options.rounds}")
    jobs = [JOBS[name] for name in names]
    return [replace(job, num_requests=job.clients) for job in jobs] if options.quick else jobs


def _record(
    options: argparse.Namespace, peers: Sequence[Peer], jobs: Sequence[Job], limits: MachineLimits, runs: Sequence[ServerRun]
) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "max_other_cpu": options.max_other_cpu,
        "peers": {peer.name: {"version": peer.version, "argv": peer.argv, "env": peer.env} for peer in peers},
        "limits": asdict(limits),
        "works": [asdict(job) | {"bound_s": job.bound_s(limits)} for job in jobs],
        "runs": [run.as_json() for run in runs],
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
