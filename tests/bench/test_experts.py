"""benchmarks/experts.py as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "experts.py"


def test_it_runs_without_a_gpu() -> None:
    command = [sys.executable, str(SCRIPT), "--shape", "tiny", "--device", "cpu", "--tokens", "1", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "tiny" in line]
    kinds = ("plain", "fp8", "int8", "int4", "gguf-4", "gguf-8", "mxfp4")
    assert [(row.split()[5], row.split()[3]) for row in rows] == [(kind, count) for kind in kinds for count in ("1", "16")]
