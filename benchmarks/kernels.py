"""Every kernel alone against the roofline of the device it runs on: `python benchmarks/kernels.py`.

A row tells the median time, the bytes and operations that the work takes whatever the kernel, the time that those take at the bandwidth of
a copy and at the rate of a large matrix product (both measured first, in the same run), and the fraction of it that was reached.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from attention_cases import attention_cases
from device_timing import Limits, measure_limits, num_input_sets, seconds_a_call
from kernel_case import ALL_SHAPES, Case, Shapes
from product_cases import product_cases
from step_cases import step_cases

from headway.server.bench.machine import describe_machine

_MEMORY_SHARE = 0.8  # of what is free that one case's inputs may take
_HEADER = ("kernel", "shape", "us", "MB", "GFLOP", "bound us", "of bound", "bound by", "GB/s", "TFLOP/s")


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a case. ``error``: why there is no time."""

    kernel: str
    shape: str
    num_bytes: int
    flops: float
    bound_s: float
    is_bound_by_memory: bool
    seconds: float | None = None
    error: str | None = None

    @property
    def fraction(self) -> float | None:
        return self.bound_s / self.seconds if self.seconds else None

    def cells(self) -> list[str]:
        work = [f"{self.num_bytes / 1e6:.3g}", f"{self.flops / 1e9:.3g}"]
        bound = f"{self.bound_s * 1e6:.2f}"
        by = "memory" if self.is_bound_by_memory else "arithmetic"
        if self.seconds is None:
            return [self.kernel, self.shape, f"FAILED: {self.error}", *work, bound, "-", by, "-", "-"]
        rates = [f"{self.num_bytes / self.seconds / 1e9:.3g}", f"{self.flops / self.seconds / 1e12:.3g}" if self.flops else "-"]
        return [self.kernel, self.shape, f"{self.seconds * 1e6:.2f}", *work, bound, f"{self.bound_s / self.seconds:.0%}", by, *rates]


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a kernel failed."""
    options = _parser().parse_args(argv)
    device = torch.device(options.device)
    options.shapes = options.shapes or ("llama-8b" if device.type == "cuda" else "smollm2-135m")
    torch.manual_seed(0)
    shapes = ALL_SHAPES[options.shapes]
    limits = measure_limits(device, (shapes.arithmetic, "fp8", "int8") if device.type == "cuda" else (shapes.arithmetic, "int8"))
    print(f"{_device_name(device)}, torch {torch.__version__}, {options.shapes}, {datetime.date.today()}\n")
    print(_limits_line(limits) + "\n")
    rows = []
    print(_line(_HEADER))
    print(_line(["---", "---", *["---:"] * (len(_HEADER) - 2)]), flush=True)
    for case in _cases(shapes, device, options.only):
        rows.append(_measure(case, device, limits))
        print(_line(rows[-1].cells()), flush=True)
    if options.json:
        _write(Path(options.json), options, device, limits, rows)
    return 1 if any(row.error for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Kernels against the roofline.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the kernels run")
    parser.add_argument("--shapes", choices=sorted(ALL_SHAPES), help="the model's sizes; llama-8b on a GPU, smollm2-135m on a CPU")
    parser.add_argument("--only", default="", metavar="PATTERN", help="a regular expression that `kernel shape` must contain")
    parser.add_argument("--json", metavar="FILE", help="where the figures go too")
    return parser


def _cases(shapes: Shapes, device: torch.device, only: str) -> Iterator[Case]:
    """One at a time: a case that is done holds no memory."""
    for make_cases in (step_cases, attention_cases, product_cases):
        for case in make_cases(shapes, device):
            if re.search(only, f"{case.kernel} {case.shape}"):
                yield case


def _measure(case: Case, device: torch.device, limits: Limits) -> Row:
    bound = limits.bound_s(case.num_bytes, case.flops, case.arithmetic)
    by_memory = bound <= case.num_bytes / limits.copy
    seconds, error = None, None
    try:
        num_sets = num_input_sets(device, case.num_bytes) if case.is_cold else 1
        _check_memory(device, num_sets * case.num_bytes)
        with torch.inference_mode():
            seconds = seconds_a_call(device, [case.make() for _ in range(num_sets)], is_capturable=case.is_capturable)
    except Exception as cause:  # one kernel that breaks must not take the table with it
        error = f"{type(cause).__name__}: {cause}".split("\n")[0].replace("|", "/")
    return Row(case.kernel, case.shape, case.num_bytes, case.flops, bound, by_memory, seconds, error)


def _check_memory(device: torch.device, num_bytes: int) -> None:
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    if num_bytes > _MEMORY_SHARE * free:
        raise MemoryError(f"inputs of {num_bytes / 1e9:.1f} GB do not fit the {free / 1e9:.1f} GB that are free")


def _limits_line(limits: Limits) -> str:
    rates = [f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in limits.rates.items()]
    missing = [f"{name} not measured: {error}" for name, error in limits.errors.items()]
    return ", ".join([f"copy {limits.copy / 1e9:.0f} GB/s (read and written)", f"read {limits.read / 1e9:.0f} GB/s", *rates, *missing])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(describe_machine()["chip"])


def _write(file: Path, options: argparse.Namespace, device: torch.device, limits: Limits, rows: list[Row]) -> None:
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": _device_name(device),
        "torch": torch.__version__,
        "machine": describe_machine(),
        "shapes": options.shapes,
        "limits": asdict(limits),
        "rows": [asdict(row) | {"fraction": row.fraction} for row in rows],
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    started = time.perf_counter()
    status = main(sys.argv[1:])
    print(f"\n{time.perf_counter() - started:.0f} s")
    sys.exit(status)
