"""What a comparison found, and the tables that show it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from headway.server.bench.machine import CpuUse
from headway.server.bench.report import Summary

LEGEND = (
    "Medians of the rounds; over a peer: how many times better headway is (above 1 is better, for times too). "
    "In brackets: every round was disturbed by other work on the machine, so do not trust it. The machine's limit is what the work's "
    "operations and bytes take at the rates above, with the weights in 4 bits, products in 8 and keys in bf16, as headway has them."
)


@dataclass(slots=True, frozen=True)
class Cell:
    """One work on one server in one round. ``is_disturbed``: others used so much CPU that the figures don't count."""

    job: str
    summary: Summary
    cpu: CpuUse
    is_disturbed: bool

    def line(self) -> str:
        result = self.summary
        text = f"{self.job}: {result.output_tokens_per_s:.1f} output tokens/s, TTFT p50 {result.ttft_ms.p50:.0f} ms, "
        text += f"TPOT p50 {result.tpot_ms.p50:.1f} ms, server used {self.cpu.server:.2f} cores"
        if result.num_errors:
            text += f", {result.num_errors} FAILED ({next(iter(result.errors))})"
        return text + (f", disturbed: others used {self.cpu.others + self.cpu.stolen:.2f} cores" if self.is_disturbed else "")


@dataclass(slots=True)
class ServerRun:
    """A server's round: started, measured, stopped. ``failure`` says why it ended early."""

    peer: str
    round_index: int
    ready_s: float | None = None
    ready_others_cpu: float = 0.0
    rss_bytes: int = 0
    cells: list[Cell] = field(default_factory=list)
    failure: str | None = None

    def as_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["cells"] = [asdict(cell) | {"summary": cell.summary.as_json()} for cell in self.cells]
        return data


def result_tables(runs: Sequence[ServerRun], peers: Sequence[str], jobs: Sequence[str], bounds_s: Mapping[str, float]) -> Iterator[Table]:
    """The median over the rounds that count, headway's ratio to each peer, and start-up. See LEGEND. ``bounds_s``: by job."""
    yield _figures("output tokens/s", runs, peers, jobs, _output_rate)
    yield _figures("all tokens/s", runs, peers, jobs, lambda cell: cell.summary.total_tokens_per_s)
    yield _figures("TTFT p50 ms", runs, peers, jobs, lambda cell: cell.summary.ttft_ms.p50, is_lower_better=True)
    yield _figures("TPOT p50 ms", runs, peers, jobs, lambda cell: cell.summary.tpot_ms.p50, is_lower_better=True)
    yield _figures("of the machine's limit, %", runs, peers, jobs, lambda cell: 100 * bounds_s[cell.job] / cell.summary.wall_s)
    yield _start_up(runs, peers)


def _output_rate(cell: Cell) -> float:
    return cell.summary.output_tokens_per_s


def _figures(
    title: str,
    runs: Sequence[ServerRun],
    peers: Sequence[str],
    jobs: Sequence[str],
    figure: Callable[[Cell], float],
    is_lower_better: bool = False,
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("work")
    for peer in peers:
        table.add_column(peer, justify="right")
    for peer in peers[1:]:
        table.add_column(f"over {peer}", justify="right")
    for job in jobs:
        found = [_median([cell for run in runs if run.peer == peer for cell in run.cells if cell.job == job], figure) for peer in peers]
        row = ["-" if value is None else (f"{value:.1f}" if counts else f"({value:.1f})") for value, counts in found]
        ours, we_count = found[0]
        for theirs, they_count in found[1:]:
            if not ours or not theirs:
                row.append("-")
                continue
            ratio = theirs / ours if is_lower_better else ours / theirs
            row.append(f"{ratio:.2f}" if we_count and they_count else f"({ratio:.2f})")
        table.add_row(job, *row)
    return table


def _median(cells: Iterable[Cell], figure: Callable[[Cell], float]) -> tuple[float | None, bool]:
    """(median, whether it counts): of the undisturbed cells, of all if there are none."""
    complete = [cell for cell in cells if not cell.summary.num_errors]
    quiet = [cell for cell in complete if not cell.is_disturbed]
    values = [figure(cell) for cell in quiet or complete]
    return (statistics.median(values) if values else None), bool(quiet)


def _start_up(runs: Sequence[ServerRun], peers: Sequence[str]) -> Table:
    table = Table(title="start to ready, s (each round), and resident memory once ready", title_justify="left")
    for name in ("server", "ready s", "MB", "failed"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for peer in peers:
        mine = [run for run in runs if run.peer == peer]
        ready = [f"{run.ready_s:.1f}" for run in mine if run.ready_s is not None]
        memory = [run.rss_bytes / 1e6 for run in mine if run.rss_bytes]
        failures = sum(run.failure is not None for run in mine)
        table.add_row(peer, ", ".join(ready) or "-", f"{statistics.median(memory):.0f}" if memory else "-", str(failures))
    return table
