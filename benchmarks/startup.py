"""How long a start takes, where its time goes and what memory it leaves in use: `python benchmarks/startup.py --help`.

Starts the real server on a model that is on the disk, some times for each form of its weights. Each start is timed from the process's start
to the first 200 of /health, and split by the phases in the server's log; memory is read right after it. One start before them is not
counted: it reads the files into the page cache, and writes byte code where an installed package has it already.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import startup_imports
from rich.console import Console
from rich.table import Table
from startup_timeline import Bar, bars, weight_bytes

from headway.server.bench.machine import CpuMeter, describe_machine, process_tree
from headway.server.bench.server_process import ServerFailed, ServerProcess, free_port
from headway.server.errors import HeadwayError
from headway.server.source.cache import cache_directory
from headway.server.source.files import ModelFiles
from headway.server.source.resolve import resolve_model
from headway.server.source.weights import weight_files

FORMS = {"fp32": "--dtype float32", "bf16": "--dtype bfloat16", "int8": "--quantization int8", "gguf": "--quantization gguf"}
IMPORTED = {"API process": "headway.server.lifecycle", "engine process": "headway.server.engine.build"}
WEIGHTS_FACTOR, FIXED_BYTES = 1.3, 400 * 10**6  # what memory may hold beside the KV cache
_READY_LIMIT_S = 300.0
_PIECE_BYTES = 1 << 20
_QUIET_CPU = 0.2  # cores of others


@dataclass(frozen=True, slots=True)
class Start:
    """One start. ``pss_bytes``: of all processes, pages that several share counted once; ``uss_bytes``: what their end would free;
    ``cpu_s``: of all processes; ``others_cpu``: cores that neither they nor this process used meanwhile."""

    form: str
    ready_s: float
    bars: list[Bar]
    weight_bytes: int
    pss_bytes: int
    uss_bytes: int
    cpu_s: float
    others_cpu: float

    @property
    def memory_limit_bytes(self) -> float:
        """A CPU's KV cache is not in memory until its pages are written, so after a start nothing is added for it."""
        return WEIGHTS_FACTOR * self.weight_bytes + FIXED_BYTES

    def phase_s(self, name: str) -> float:
        return sum(bar.seconds for bar in self.bars if bar.name == name)


def measure_start(model: str, form: str, arguments: Sequence[str]) -> Start:
    port = free_port()
    argv = [sys.executable, "-m", "headway.server.cli", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--log-format", "json", "--log-level", "info", *arguments]
    started = time.time()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with ServerProcess(argv, environment, f"http://127.0.0.1:{port}") as server:
        meter = CpuMeter(server.pid)
        ready_s = server.wait_ready(_READY_LIMIT_S)
        use = meter.read()
        held = [process.memory_full_info() for process in process_tree(server.pid)]
        lines = server.lines()
    pss, uss = sum(one.pss for one in held), sum(one.uss for one in held)
    return Start(form, ready_s, bars(lines, started), weight_bytes(lines), pss, uss, use.server * ready_s, use.others + use.stolen)


def median_start(starts: Sequence[Start]) -> Start:
    return sorted(starts, key=lambda start: start.ready_s)[len(starts) // 2]


def read_rate(files: ModelFiles) -> tuple[int, float]:
    """(bytes of the weights' files, bytes a second that reading them takes now, with nothing done to them)."""
    paths = [files.gguf] if files.gguf is not None else weight_files(files.path)
    buffer = bytearray(_PIECE_BYTES)
    total, since = 0, time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total, total / (time.perf_counter() - since)


def table(starts: Sequence[Start], files_bytes: int, rate: float, limit_s: float) -> Table:
    result = Table(title="from process start to the first 200 of /health, and memory right after it", title_justify="left")
    for name in (
        "weights",
        "ready s",
        "CPU s",
        "others' cores",
        f"limit {limit_s:g} s",
        "PSS MB",
        "USS MB",
        "limit MB",
        "",
        "weights loaded MB/s",
        "files read MB/s",
    ):
        result.add_column(name, justify="left" if name == "weights" else "right")
    for form, typical in _typical(starts).items():
        mine = [start for start in starts if start.form == form]
        pss, limit = typical.pss_bytes, typical.memory_limit_bytes
        loading_s = typical.phase_s("loading weights")
        result.add_row(
            f"{form} ({typical.weight_bytes / 1e6:.0f} MB)",
            f"{typical.ready_s:.2f} ({', '.join(f'{start.ready_s:.2f}' for start in mine)})",
            f"{typical.cpu_s:.2f}",
            f"{typical.others_cpu:.2f}",
            _verdict(typical.ready_s <= limit_s),
            f"{pss / 1e6:.0f}",
            f"{typical.uss_bytes / 1e6:.0f}",
            f"{limit / 1e6:.0f}",
            _verdict(pss <= limit),
            f"{files_bytes / max(loading_s, 0.01) / 1e6:.0f}",
            f"{rate / 1e6:.0f}",
        )
    return result


def phase_table(starts: Sequence[Start]) -> Table:
    typical = _typical(starts)
    result = Table(title="seconds by phase, in the order in which they begin; the two processes work side by side", title_justify="left")
    for name in ("process", "phase", *typical):
        result.add_column(name, justify="left" if name in ("process", "phase") else "right")
    first = next(iter(typical.values()))
    for bar in first.bars:
        result.add_row(bar.process, bar.name, *(f"{start.phase_s(bar.name):.2f}" for start in typical.values()))
    return result


def _verdict(is_good: bool) -> str:
    return "kept" if is_good else "[red]missed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="demo", help="a directory, a file or a name (default: demo)")
    kinds = ", ".join(FORMS)
    parser.add_argument("--forms", default=",".join(FORMS), help=f"of the weights, of {kinds}; gguf is for a quantised GGUF alone")
    parser.add_argument("--starts", type=int, default=3, help="of each form; the median of those that others did not disturb counts")
    parser.add_argument("--most-s", type=float, default=4.0, help="the median above which the exit status is 1")
    parser.add_argument("--headway-args", default="", help="further options of the server, as one text")
    parser.add_argument("--picture", type=Path, help="a PNG of the median starts (needs matplotlib)")
    parser.add_argument("--json", type=Path, help="every start")
    return parser


def _arguments(form: str, options: argparse.Namespace) -> list[str]:
    return [*FORMS[form].split(), *shlex.split(options.headway_args)]


def _typical(starts: Sequence[Start]) -> dict[str, Start]:
    """The median start of each form, of those that nobody disturbed if there are any."""
    forms = dict.fromkeys(start.form for start in starts)
    found = {form: [start for start in starts if start.form == form] for form in forms}
    return {form: median_start([start for start in mine if start.others_cpu <= _QUIET_CPU] or mine) for form, mine in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    forms = options.forms.split(",")
    if unknown := [form for form in forms if form not in FORMS]:
        _parser().error(f"--forms {options.forms}: {unknown[0]} is none of {', '.join(FORMS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to stop, it stops its server too
    console, starts = Console(width=140), []
    try:
        files = resolve_model(options.model, cache_dir=cache_directory(os.environ))
        measure_start(options.model, forms[0], _arguments(forms[0], options))
        for _ in range(options.starts):
            starts += [measure_start(options.model, form, _arguments(form, options)) for form in forms]
    except (ServerFailed, HeadwayError) as failure:
        console.print(str(failure), style="red", markup=False)
        return 1
    files_bytes, rate = read_rate(files)
    console.print(table(starts, files_bytes, rate, options.most_s), phase_table(starts))
    imports = {process: startup_imports.measure(module) for process, module in IMPORTED.items()}
    for process, found in imports.items():
        console.print(f"imports of the {process}, alone: {found.total_s:.2f} s: {found.line()}", highlight=False, soft_wrap=True)
    typical = _typical(starts)
    if options.picture:
        from startup_picture import draw  # matplotlib

        ready = {form: start.ready_s for form, start in typical.items()}
        draw({form: start.bars for form, start in typical.items()}, ready, options.most_s, options.picture)
    if options.json:
        report = {
            "machine": describe_machine(),
            "starts": [asdict(start) for start in starts],
            "imports": {process: asdict(found) for process, found in imports.items()},
        }
        options.json.write_text(json.dumps(report, indent=1))
    is_good = all(start.ready_s <= options.most_s and start.pss_bytes <= start.memory_limit_bytes for start in typical.values())
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
