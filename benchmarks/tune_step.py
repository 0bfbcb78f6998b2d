"""Tiles of a decode step's products and attention, tried within the step: `python benchmarks/tune_step.py`.

Where a kernel begins while the one before still runs, the tiles that are fastest alone need not be best beside their neighbours. So here a
few layers in the shape of a real model, the output and the choice of a token are recorded into one CUDA graph, and the tiles of one
operation after the other are varied. What benchmarks/tune_kernels.py found is where it starts, and what it replaces in the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import torch
from attention_cases import BLOCK_SIZE, Pages
from device_timing import measure_limits, seconds_a_call
from kernel_case import ALL_SHAPES, Shapes
from torch import Tensor
from tune_kernels import Table, write_table
from tuning import AnyTiles

from headway.kernels.activation import silu_and_mul
from headway.kernels.gpu import dependent_launch
from headway.kernels.gpu import paged_attention as gpu_attention
from headway.kernels.gpu.device import chip, num_multiprocessors, shared_memory_bytes
from headway.kernels.gpu.linear import estimate
from headway.kernels.linear import PackedLinear, pack_linear, packed_linear
from headway.kernels.norm import fused_add_rms_norm
from headway.kernels.paged_attention import paged_attention
from headway.kernels.rope import rope_and_cache
from headway.kernels.sampling import sample_tokens
from headway.kernels.tuned import LIBRARY, TABLES, DecodeTiles, Tiles, trying, tuned_decode, tuned_tiles

_MOST_ELEMENTS, _FEWEST_ELEMENTS = 128, 16  # of a weight's tile, a thread
Choice = dict[str, AnyTiles]  # by the product's name, or "attention"


class Step:
    """Layers with weights and pages of their own, as many as leave the cache between two uses, and what stands behind the last."""

    def __init__(self, shapes: Shapes, batch: int, context: int, num_layers: int, device: torch.device) -> None:
        self._shapes, self._batch, self._context = shapes, batch, context
        self._layers = [self._weights(shapes, device) for _ in range(num_layers)]
        self._head = _packed(shapes, "lm_head", device)
        self._pages = [Pages(shapes, [context] * batch, shapes.dtype, device) for _ in range(num_layers)]
        self._norm = torch.ones(shapes.hidden_size, dtype=shapes.dtype, device=device)
        self._hidden, self._residual = (torch.randn(batch, shapes.hidden_size, dtype=shapes.dtype, device=device) for _ in range(2))
        self._cos_sin = torch.rand(context, shapes.head_dim, device=device)
        self._positions = torch.full((batch,), context - 1, device=device)
        self._slots = [pages.tables[:, -1].long() * BLOCK_SIZE + (context - 1) % BLOCK_SIZE for pages in self._pages]

    @property
    def num_bytes(self) -> int:
        """Weights, keys and values, each once."""
        sizes = dict(self._shapes.products)
        vocabulary, hidden = sizes.pop("lm_head")
        keys = 2 * self._batch * self._context * self._shapes.num_kv_heads * self._shapes.head_dim
        elements = len(self._layers) * (sum(n * k for n, k in sizes.values()) + keys) + vocabulary * hidden
        return elements * self._shapes.dtype.itemsize

    def __call__(self, choice: Choice) -> Tensor:
        hidden, residual = self._hidden, self._residual
        for weights, pages, slots in zip(self._layers, self._pages, self._slots, strict=True):
            hidden, residual = fused_add_rms_norm(hidden, residual, self._norm, 1e-5)
            with trying(choice["qkv"]):
                qkv = packed_linear(hidden, weights["qkv"])
            with trying(choice["attention"]):
                hidden = self._attend(qkv, pages, slots)
            with trying(choice["o"]):
                hidden = packed_linear(hidden, weights["o"])
            hidden, residual = fused_add_rms_norm(hidden, residual, self._norm, 1e-5)
            with trying(choice["gate_up"]):
                hidden = packed_linear(hidden, weights["gate_up"])
            with trying(choice["down"]):
                hidden = packed_linear(silu_and_mul(hidden), weights["down"])
        hidden, _ = fused_add_rms_norm(hidden, residual, self._norm, 1e-5)
        with trying(choice["lm_head"]):
            logits = packed_linear(hidden, self._head)
        return sample_tokens(logits.float(), None)

    def _attend(self, qkv: Tensor, pages: Pages, slots: Tensor) -> Tensor:
        shapes = self._shapes
        heads = qkv.view(self._batch, -1, shapes.head_dim)
        q, k, v = heads.split((shapes.num_heads, shapes.num_kv_heads, shapes.num_kv_heads), dim=1)
        q = rope_and_cache(q, k, v, self._cos_sin, self._positions, pages.k, pages.v, slots)
        scale = shapes.head_dim**-0.5
        out = paged_attention(q, pages.k, pages.v, pages.tables, pages.lengths, scale, max_seq_len=self._context)
        return out.view(self._batch, -1)

    @staticmethod
    def _weights(shapes: Shapes, device: torch.device) -> dict[str, PackedLinear]:
        return {name: _packed(shapes, name, device) for name in ("qkv", "o", "gate_up", "down")}


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    device, shapes = torch.device(options.device), ALL_SHAPES[options.shapes]
    if device.type != "cuda" and not options.out:
        print("Tables are for GPUs, and there is none here: name a file with --out to try the search.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    limits = measure_limits(device, ())
    with torch.inference_mode(), ExitStack() as stack:
        step = Step(shapes, options.batch, options.context, options.layers, device)
        bound = step.num_bytes / limits.copy
        choice = _start(shapes, options, device)
        before = seconds_a_call(device, [lambda: step(choice)])
        with mock.patch.object(dependent_launch, "has_dependent_launch", return_value=False):
            apart = seconds_a_call(device, [lambda: step(choice)])
        print(f"bound {bound * 1e6:.1f} us, one kernel after the other {apart * 1e6:.1f} ({bound / apart:.1%}), ", end="")
        print(f"as the table has it {before * 1e6:.1f} ({bound / before:.1%})", flush=True)
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        search = _Search(step, device, choice, before, time.perf_counter() + options.seconds, pool)
        for name in options.only or ("gate_up", "attention", "o", "qkv", "down", "lm_head"):
            search.vary(name, list(_candidates(name, options.batch)))
        print(f"best {search.seconds * 1e6:.1f} us ({bound / search.seconds:.1%})")
    _keep(search.choice, shapes, options, device)
    return 0


class _Search:
    """The best choice so far."""

    def __init__(self, step: Step, device: torch.device, choice: Choice, seconds: float, deadline: float, pool: ThreadPoolExecutor) -> None:
        self._step, self._device, self._deadline, self._pool = step, device, deadline, pool
        self.choice, self.seconds = choice, seconds

    def vary(self, name: str, candidates: list[AnyTiles]) -> None:
        choices = [self.choice | {name: tiles} for tiles in candidates]
        works = list(self._pool.map(lambda choice: copy_context().run(self._works, choice), choices))
        times = {}
        for choice, is_working in zip(choices, works, strict=True):
            if is_working and time.perf_counter() < self._deadline:
                times[choice[name]] = seconds_a_call(self._device, [_call(self._step, choice)])
        if not times:
            return
        ranking = sorted(times, key=times.__getitem__)
        print(f"{name}: {len(times)} of {len(candidates)} tried, from {self.choice[name]}", flush=True)
        for tiles in ranking[:3]:
            print(f"  {times[tiles] * 1e6:.1f} us: {tiles}", flush=True)
        if times[ranking[0]] < self.seconds:
            self.choice, self.seconds = self.choice | {name: ranking[0]}, times[ranking[0]]

    def _works(self, choice: Choice) -> bool:
        """Compiles it. Triton's exceptions are of many types."""
        try:
            with torch.inference_mode():
                self._step(choice)
        except Exception as cause:
            print(f"  {type(cause).__name__}: {cause}".split("\n")[0], flush=True)
            return False
        return True


def _call(step: Step, choice: Choice) -> Callable[[], Tensor]:
    return lambda: step(choice)


def _start(shapes: Shapes, options: argparse.Namespace, device: torch.device) -> Choice:
    """What launchers take now."""
    choice: Choice = {}
    for name, (n, k) in shapes.products.items():
        found = tuned_tiles("linear", chip(device), (n, k), options.batch)
        choice[name] = found or estimate(options.batch, n, k, num_multiprocessors(device), shared_memory_bytes(device))
    found = tuned_decode(chip(device), _attention_sizes(shapes), options.batch * shapes.num_kv_heads)
    choice["attention"] = found or DecodeTiles(gpu_attention.block_n(shapes.head_dim, shapes.dtype), gpu_attention.MIN_SPLIT_TOKENS)
    return choice


def _candidates(name: str, batch: int) -> Iterable[AnyTiles]:
    if name == "attention":
        for min_tokens, programs, block_n, warps, stages in itertools.product((64, 128, 256), (1, 2, 4), (32, 64), (4, 8), (2, 3)):
            if block_n <= min_tokens:
                yield DecodeTiles(block_n, min_tokens, programs, num_warps=warps, num_stages=stages)
        return
    yield LIBRARY
    if batch == 1:
        for block_n, block_k, warps in itertools.product((1, 2, 4, 8), (512, 1024, 2048, 4096), (2, 4, 8)):
            if _FEWEST_ELEMENTS <= block_n * block_k / (32 * warps) <= _MOST_ELEMENTS:
                yield Tiles(1, block_n, block_k, num_warps=warps, num_stages=1)
        return
    for block_n, block_k, stages in itertools.product((16, 32, 64), (128, 256, 512), (2, 3, 4)):
        yield Tiles(16, block_n, block_k, num_warps=4, num_stages=stages)


def _attention_sizes(shapes: Shapes) -> tuple[int, int, int]:
    return shapes.num_heads // shapes.num_kv_heads, shapes.head_dim, shapes.dtype.itemsize


def _packed(shapes: Shapes, name: str, device: torch.device) -> PackedLinear:
    return pack_linear(torch.randn(shapes.products[name], dtype=shapes.dtype, device=device) / 64)


def _keep(choice: Choice, shapes: Shapes, options: argparse.Namespace, device: torch.device) -> None:
    out = Path(options.out) if options.out else TABLES / f"{chip(device)}.json"
    table: Table = json.loads(out.read_text()) if out.exists() else {}
    for name, tiles in choice.items():
        is_attention = name == "attention"
        operation, sizes = ("paged_attention", _attention_sizes(shapes)) if is_attention else ("linear", shapes.products[name])
        count = options.batch * shapes.num_kv_heads if is_attention else options.batch
        table.setdefault(operation, {}).setdefault("x".join(map(str, sizes)), {})[str(count)] = asdict(tiles)
    write_table(out, table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Tune a step.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the step runs")
    parser.add_argument("--shapes", choices=sorted(ALL_SHAPES), default="llama-8b", help="the model's sizes")
    parser.add_argument("--batch", type=int, default=1, choices=range(1, 17), metavar="1-16", help="rows of the step")
    parser.add_argument("--context", type=int, default=2048, help="tokens that each has before it")
    parser.add_argument("--layers", type=int, default=8, help="that are recorded")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all that is tried")
    parser.add_argument("--jobs", type=int, default=16, help="threads that compile")
    parser.add_argument("--only", nargs="*", help="operations: of qkv, attention, o, gate_up, down, lm_head")
    parser.add_argument("--out", metavar="FILE", help="instead of the chip's table in the package")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
