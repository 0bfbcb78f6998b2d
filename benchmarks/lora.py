"""What adapters cost a loaded engine on a CPU: `python benchmarks/lora.py`.

The engine alone, in this process, with the demo model: prompts, then steps of requests that decode together, without adapters and with
many mixed, in turn, so that the machine's noise hits both. Seconds are CPU time of all threads, which waiting for other processes does not
change (sharing a core or the memory with them does). Prints each round and the median of the rounds' ratios; exit status 1 below --least.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from headway.server.bench.machine import describe_machine
from headway.server.config.server import ServerConfig
from headway.server.engine.build import build_engine
from headway.server.engine.core import EngineCore
from headway.server.loading.model_config import read_config
from headway.server.models.base import DecoderConfig
from headway.server.source.cache import cache_directory
from headway.server.source.resolve import resolve_model
from headway.server.types import AdapterRef, GenerateRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Spent:
    prefill_s: float
    step_s: float

    def total(self, output_len: int) -> float:
        return self.prefill_s + output_len * self.step_s


class Driver:
    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        files = resolve_model(options.model, cache_dir=cache_directory(os.environ))
        lora = {"enable_lora": True, "max_loras": options.num_adapters, "max_lora_rank": options.rank}
        model = {"model": options.model, "device": "cpu", "max_model_len": 2048}
        self._core: EngineCore = build_engine(ServerConfig.model_validate({"model": model, "lora": lora}), files)
        self._rng = random.Random(0)
        self._ids = count()
        shapes = _shapes(read_config(files))
        answers: list[Exception | None] = []
        for i in range(1, options.num_adapters + 1):
            path = directory / str(i)
            _write(path, shapes, options.rank)
            self._core.add_adapter(AdapterRef(i, str(i), str(path)), preload=True, is_pinned=False, done=answers.append)
        while len(answers) < options.num_adapters:
            self._core.step()
            time.sleep((self._core.patience_ms or 0) / 1000)  # as the engine's process does: the threads that read want the interpreter
        if any(answers):
            raise SystemExit(str(next(filter(None, answers))))

    def run(self, *, has_adapters: bool) -> Spent:
        options, core = self._options, self._core
        size = core.info.vocab_size
        for i in range(options.batch):
            prompt = [self._rng.randrange(size) for _ in range(options.input_len)]
            sampling = SamplingParams(max_tokens=options.steps + 64, temperature=0.0, ignore_eos=True)
            adapter_id = 1 + i % options.num_adapters if has_adapters else None
            core.add_request(GenerateRequest(f"r{next(self._ids)}", prompt, sampling, time.time(), adapter_id=adapter_id))
        begin, begun = time.process_time(), set[str]()
        while len(begun) < options.batch:  # those that began first decode meanwhile
            begun |= {delta.request_id for delta in core.step().deltas if delta.token_ids}
        prefill_s = time.process_time() - begin
        begin = time.process_time()
        for _ in range(options.steps):
            core.step()
        step_s = (time.process_time() - begin) / options.steps
        core.abort_all()
        while core.has_work:
            core.step()
        return Spent(prefill_s, step_s)


def _shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """[N, K] of every linear, by its name in the checkpoint."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    linears = {"self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
    linears |= {"self_attn.o_proj": (hidden, q), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    linears["mlp.down_proj"] = (hidden, inner)
    return {f"model.layers.{i}.{name}": shape for i in range(config.num_layers) for name, shape in linears.items()}


def _write(path: Path, shapes: dict[str, tuple[int, int]], rank: int) -> None:
    tensors = {}
    for name, (num_rows, num_columns) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = 0.02 * torch.randn(rank, num_columns)
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.02 * torch.randn(num_rows, rank)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--num-adapters", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64, help="of the throughput that is printed last")
    parser.add_argument("--steps", type=int, default=30, help="decode steps that are measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.8, help="the ratio below which the exit status is 1")
    options = parser.parse_args()
    console = Console()
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(options, Path(directory))
        torch.set_num_threads(options.threads)
        for index in range(-1, options.rounds):  # the first warms up
            plain, adapted = driver.run(has_adapters=False), driver.run(has_adapters=True)
            if index >= 0:
                rounds.append((plain, adapted))
                console.print(f"round {index + 1}: plain {plain}, with adapters {adapted}")

    def ratio(part: str) -> float:
        return statistics.median(getattr(plain, part) / getattr(adapted, part) for plain, adapted in rounds)

    whole = statistics.median(plain.total(options.output_len) / adapted.total(options.output_len) for plain, adapted in rounds)
    console.print(f"with adapters: {ratio('prefill_s'):.1%} of the plain speed for prompts, {ratio('step_s'):.1%} for decode steps,")
    console.print(f"{whole:.1%} for requests of {options.input_len} + {options.output_len} tokens")
    console.print(" ".join(f"{name}: {value}" for name, value in describe_machine().items()))
    return 0 if whole >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
