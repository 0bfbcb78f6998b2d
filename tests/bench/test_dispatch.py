"""benchmarks/dispatch.py as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make_tiny_model

from headway.kernels.cpu.native.library import library

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dispatch.py"


def test_kernels_and_the_rest_make_up_a_step(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    make_tiny_model("llama", tmp_path)
    command = [sys.executable, str(SCRIPT), "--model", str(tmp_path), "--rows", "2", "--steps", "10", "--rounds", "1", "--input-len", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    num_rows, step, kernels, rest, least, share = (float(cell.strip(" %")) for cell in row)
    assert num_rows == 2
    assert 0 < kernels < step
    assert 0 < least <= rest < step
    assert 50 < share < 100, "the model is tiny"
