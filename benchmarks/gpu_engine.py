"""The engine alone, without HTTP, on random weights in the shape of Llama-3.1-8B: `python benchmarks/gpu_engine.py`.

Each figure stands beside its bound: for decode the time that reading the weights and the keys and values once takes at the bandwidth of a
copy, for a prompt its operations at the rate of a large matrix product, both measured first, in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from device_timing import Limits, measure_limits
from engine_model import Work, write_model
from engine_runs import Driver, Kernels
from kernel_case import ALL_SHAPES, Shapes
from rich.console import Console

from headway.server.bench.engine import build_core
from headway.server.bench.machine import describe_machine
from headway.server.engine.core import EngineCore
from headway.server.types import EngineInfo

_HEADER = ("work", "measured ms", "bound ms", "of bound", "kernels ms", "device waits ms", "tokens/s")
_NUM_PROFILED = 20
_SPARE_TOKENS = 512  # that a request makes while others' prompts are read, before steps are timed
_NUM_LISTED = 20
_PROMPT_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """``seconds`` of a step, a prompt or a crowd."""

    seconds: float
    bound_s: float
    num_tokens: int  # that were made or, of a prompt, read
    kernels: Kernels | None = None

    def cells(self) -> list[str]:
        times = [f"{self.seconds * 1e3:.3f}", f"{self.bound_s * 1e3:.3f}", f"{self.bound_s / self.seconds:.1%}"]
        split = ["-", "-"]
        if self.kernels:
            busy = self.kernels.seconds
            split = [f"{busy * 1e3:.3f}", f"{max(self.seconds - busy, 0.0) * 1e3:.3f}"]
        return [*times, *split, f"{self.num_tokens / self.seconds:.0f}"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a work. ``error``: why nothing was measured."""

    work: str
    measured: Measured | None = None
    error: str | None = None

    def cells(self) -> list[str]:
        return [self.work, *(self.measured.cells() if self.measured else [f"FAILED: {self.error}", *["-"] * 5])]


def main(argv: Sequence[str]) -> int:
    """Exit status 1 if a work failed."""
    options = _parser().parse_args(argv)
    device = torch.device(options.device)
    shapes = ALL_SHAPES[options.shapes]
    limits = measure_limits(device, (shapes.arithmetic,))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the engine sizes its cache by what is free
    rate = limits.rates.get(shapes.arithmetic, 0.0)
    print(f"{options.shapes}: copy {limits.copy / 1e9:.0f} GB/s, {shapes.arithmetic} {rate / 1e12:.3g} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        core = _build(Path(directory), options, shapes)
        print(f"{core.info.device}: {core.info.weight_format}, {core.info.num_blocks} blocks of {core.info.block_size}\n", flush=True)
        try:
            results = _run(Driver(core, device), Work(shapes, core.info), limits, options)
        finally:
            core.shutdown()
    if options.json:
        _write(Path(options.json), options, limits, core.info, results)
    return 1 if any(result.error for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="The engine alone against the device's bounds.",
        epilog="Options behind -- go to the engine, named as for `headway serve`.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="what the bounds are measured on")
    parser.add_argument("--shapes", choices=sorted(ALL_SHAPES), default="llama-8b", help="the model's sizes")
    parser.add_argument("--batches", type=_numbers, default=(1, 64), help="of the requests that decode, joined by commas; 0: none")
    parser.add_argument("--context", type=int, default=2048, help="tokens that they have before them")
    parser.add_argument("--steps", type=int, default=64, help="of each batch that are timed")
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the prompt alone; 0: none")
    parser.add_argument("--requests", type=int, default=256, help="at once, of the crowd; 0: none")
    parser.add_argument("--input-len", type=int, default=1024, help="tokens of their prompts")
    parser.add_argument("--output-len", type=int, default=256, help="tokens of their answers")
    parser.add_argument("--profile", action="store_true", help=f"list the kernels of {_NUM_PROFILED} steps of each batch")
    parser.add_argument("--json", metavar="FILE", help="where the figures go too")
    parser.add_argument("engine_options", nargs="*", default=[], help="options of `headway serve`, behind --")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(number for number in map(int, text.split(",")) if number)


def _build(directory: Path, options: argparse.Namespace, shapes: Shapes) -> EngineCore:
    longest = max(options.context + options.steps, options.input_len + options.output_len, options.prompt) + _SPARE_TOKENS
    num_seqs = max(*options.batches, options.requests, 1)
    write_model(directory, shapes, longest)
    settings = {"--load-format": "dummy", "--dtype": str(shapes.dtype).removeprefix("torch."), "--max-model-len": longest}
    settings |= {"--max-num-seqs": num_seqs, "--max-num-batched-tokens": max(options.prompt, num_seqs, 512)}
    arguments = [str(part) for setting in settings.items() for part in setting]
    return build_core(str(directory), [*arguments, *options.engine_options], {}, Console())


def _run(driver: Driver, work: Work, limits: Limits, options: argparse.Namespace) -> list[Result]:
    print(_line(_HEADER))
    print(_line(["---", *["---:"] * (len(_HEADER) - 1)]), flush=True)
    results = []
    for name, measure in _works(driver, work, limits, options):
        try:
            result = Result(name, measure())
        except Exception as cause:  # the other works can still be measured
            driver.core.abort_all()
            result = Result(name, error=f"{type(cause).__name__}: {cause}".split("\n")[0].replace("|", "/"))
        results.append(result)
        print(_line(result.cells()), flush=True)
    for result in results:
        if options.profile and result.measured and result.measured.kernels:
            _print_kernels(result.work, result.measured.kernels)
    return results


def _works(driver: Driver, work: Work, limits: Limits, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Measured]]]:
    rate = limits.rates.get(work.shapes.arithmetic, math.nan)

    def decode(batch: int) -> Measured:
        steps = driver.decode(batch, options.context, options.steps, _NUM_PROFILED)
        return Measured(steps.seconds, work.decode_bytes(steps.num_keys) / limits.copy, batch, steps.kernels)

    def prompt() -> Measured:
        seconds = driver.prefill(options.prompt, _PROMPT_REPEATS)
        return Measured(seconds, work.prefill_flops(options.prompt) / rate, options.prompt)

    def crowd() -> Measured:
        """Its bound: all prompts at the matrix rate, then each step's bytes."""
        num_requests, num_input, num_output = options.requests, options.input_len, options.output_len
        seconds = driver.crowd(num_requests, num_input, num_output)
        steps = sum(work.decode_bytes(num_requests * (num_input + i)) for i in range(num_output)) / limits.copy
        return Measured(seconds, num_requests * work.prefill_flops(num_input) / rate + steps, num_requests * num_output)

    for batch in options.batches:
        yield f"a step of {batch} at {options.context}", partial(decode, batch)
    if options.prompt:
        yield f"a prompt of {options.prompt}", prompt
    if options.requests:
        yield f"{options.requests} requests, {options.input_len} in, {options.output_len} out", crowd


def _print_kernels(name: str, kernels: Kernels) -> None:
    print(f"\nkernels of {name}, microseconds a step ({kernels.seconds * 1e6:.0f} together):\n")
    print(_line(("kernel", "times", "us", "share")))
    print(_line(("---", "---:", "---:", "---:")))
    for kernel, times, seconds in kernels.most[:_NUM_LISTED]:
        a_step = seconds / _NUM_PROFILED
        cells = [f"{times / _NUM_PROFILED:.1f}", f"{a_step * 1e6:.1f}", f"{a_step / kernels.seconds:.1%}"]
        print(_line([kernel[:90].replace("|", "/"), *cells]))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write(file: Path, options: argparse.Namespace, limits: Limits, info: EngineInfo, results: list[Result]) -> None:
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "machine": describe_machine(),
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "engine": msgspec.to_builtins(info),
        "limits": asdict(limits),
        "results": [asdict(result) for result in results],
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    started = time.perf_counter()
    status = main(sys.argv[1:])
    print(f"\n{time.perf_counter() - started:.0f} s")
    sys.exit(status)
