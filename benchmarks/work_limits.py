"""What a work of compare.py takes at best on this machine: its operations at the rate of a large matrix product, what its steps read at the
bandwidth of memory, both measured in the same run.

As a program it prints the two as JSON, for a process that is told what the servers are told of the processor.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.server.bench.errors import BenchError

# SmolLM2-135M, whose Q4_1 GGUF every server serves the values of.
_NUM_LAYERS, _NUM_HEADS, _NUM_KV_HEADS, _HEAD_DIM = 30, 9, 3, 64
_LAYER_WEIGHTS = 960 * 576 + 576 * 576 + 3072 * 576 + 576 * 1536
_HEAD_WEIGHTS = 49152 * 576
# As Headway keeps them: 4 bits, a scale and an offset of 16 for 32 weights; the head, which is the embedding too, 8 bits.
_WEIGHT_BYTES = _NUM_LAYERS * _LAYER_WEIGHTS * 5 / 8 + _HEAD_WEIGHTS * 9 / 8
_KV_BYTES = 2 * 2 * _NUM_LAYERS * _NUM_KV_HEADS * _HEAD_DIM  # of a token, bf16


@dataclass(frozen=True, slots=True)
class MachineLimits:
    read: float  # bytes a second
    rate: float  # 8-bit operations a second, of the faster of our own products with all threads

    def line(self) -> str:
        return f"memory read at {self.read / 1e9:.1f} GB/s, 8-bit products at {self.rate / 1e9:.0f} GOP/s"


def machine_limits(environment: Mapping[str, str]) -> MachineLimits:
    """Measured by a process with ``environment``. Raises BenchError where it fails."""
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the machine's limits could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return MachineLimits(**json.loads(done.stdout.splitlines()[-1]))


def bound_s(limits: MachineLimits, *, clients: int, num_requests: int, input_len: int, output_len: int, prefix_len: int = 0) -> float:
    """Seconds of ``num_requests`` prompts of ``prefix_len`` shared and ``input_len`` own tokens, then of steps of ``clients`` rows."""
    weights = _NUM_LAYERS * _LAYER_WEIGHTS

    def prompt(num_tokens: int, num_before: int) -> float:
        return 2.0 * (weights * num_tokens + _HEAD_WEIGHTS) + _attention(num_tokens * num_before + num_tokens * (num_tokens + 1) / 2)

    operations = num_requests * prompt(input_len, prefix_len) + (prompt(prefix_len, 0) if prefix_len else 0.0)
    own = input_len + output_len / 2  # on average
    step_operations = clients * (2.0 * (weights + _HEAD_WEIGHTS) + _attention(prefix_len + own))
    step_bytes = _WEIGHT_BYTES + _KV_BYTES * (prefix_len + clients * own)  # what is shared once
    num_steps = num_requests / clients * (output_len - 1)
    return operations / limits.rate + num_steps * max(step_operations / limits.rate, step_bytes / limits.read)


def _attention(num_pairs: float) -> float:
    """Of so many pairs of a query and a key."""
    return 4.0 * _NUM_LAYERS * _NUM_HEADS * _HEAD_DIM * num_pairs


def _measure() -> MachineLimits:
    import torch
    from device_timing import measure_limits, seconds_a_call

    from headway.kernels.grouped_layout import GroupedValues
    from headway.kernels.grouped_matmul import grouped_linear, pack_grouped

    n, k, rows = 3072, 1536, 512
    values = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scale = torch.rand(n, k // 32).half()
    packed, x = pack_grouped(GroupedValues(values, scale, -8 * scale, 4)), torch.randn(rows, k)
    product_s = seconds_a_call(torch.device("cpu"), [lambda: grouped_linear(x, packed)])
    limits = measure_limits(torch.device("cpu"), ("int8",))
    return MachineLimits(max(limits.read, limits.copy), max(2 * n * k * rows / product_s, limits.rates.get("int8", 0.0)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    found = _measure()
    print(json.dumps({"read": found.read, "rate": found.rate}))
