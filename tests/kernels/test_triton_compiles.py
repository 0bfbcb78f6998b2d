"""Every Triton kernel compiles ahead of time for the GPUs that we aim at, and fits the shared memory of the smallest. No GPU needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALLEST_SHARED_MEMORY = 99 * 1024  # bytes a program may use on sm_86 and sm_89 (A10G, L4, L40S)
HOPPER_SHARED_MEMORY = 227 * 1024  # what kernels take that are given other tiles there
MOST_SPILT = {"int4": 64, "prefill": 16, "quant_experts": 16}  # bytes a thread, on sm_80; prefill: with int8 pages and spans


def _ptxas_runs() -> bool:
    try:
        import triton

        ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        return subprocess.run([str(ptxas), "--version"], capture_output=True, check=False).returncode == 0
    except (ImportError, OSError):
        return False


@pytest.mark.timeout(0)  # minutes where nothing is in Triton's cache; the process that compiles has a limit of its own
@pytest.mark.parametrize(("capability", "dtype"), [(80, "bf16"), (90, "bf16")])
def test_every_kernel_compiles(capability: int, dtype: str) -> None:
    if not _ptxas_runs():
        pytest.skip("ptxas, which Triton brings along, does not run here")
    script = Path(__file__).parents[1] / "support" / "compile_kernels.py"
    # A process of its own: in this one the kernels were imported for the interpreter. It uses the cache that Triton keeps for its user,
    # by the kernels' source and all that they are compiled with: what has not changed since the last run is not compiled again.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(script), str(capability), dtype]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    names = {"norm", "silu", "gelu", "rope", "decode", "merge", "prefill", "shared_pages", "forbid", "shrink", "expand", "embed"}
    names |= {"single_row", "few_rows", "sum_parts", "quantize_rows", "quantize_groups", "quantize_spread"}
    names |= {"int8", "fp8", "int4", "int4_single_row", "dequantize"}
    names |= {"peaks", "finish", "weigh", "draw", "penalise", "count", "route", "group", "up", "down", "quant_experts", "sum_pairs"}
    assert {kernel["kernel"] for kernel in kernels} >= names
    most = {"prefill": HOPPER_SHARED_MEMORY} if capability >= 90 else {}
    assert not [kernel for kernel in kernels if kernel["shared"] > most.get(kernel["kernel"], SMALLEST_SHARED_MEMORY)]
    assert not [kernel for kernel in kernels if kernel["stack"] > MOST_SPILT.get(kernel["kernel"], 0)]
    # One that begins early and awaits nothing would read what is not written yet; chips before Hopper have no such instruction.
    assert all(kernel["waits"] == kernel["launched_early"] for kernel in kernels)
    early = {"norm", "silu", "rope", "decode", "merge", "single_row", "few_rows", "peaks", "finish", "int8", "fp8", "int4", "sum_parts"}
    assert {kernel["kernel"] for kernel in kernels if kernel["waits"]} >= (early if capability >= 90 else set())
    # A product fused with a sum is rounded once: weights would no longer be the reference's.
    assert not [kernel for kernel in kernels if kernel["kernel"] == "weigh" and kernel["fused"]]
