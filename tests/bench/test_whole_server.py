"""benchmarks/whole_server.py as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CROWD = ["--requests", "2", "--num-prompts", "3", "--input-len", "20", "--output-len", "4"]


@pytest.mark.parametrize(("target", "status"), [("0", 0), ("1000", 1)])
def test_engine_and_server_do_the_same_work(tmp_path: Path, target: str, status: int) -> None:
    file = tmp_path / "result.json"
    argv = [
        sys.executable,
        str(BENCHMARKS / "whole_server.py"),
        "--shapes",
        "smollm2-135m",
        *CROWD,
        "--target",
        target,
        "--json",
        str(file),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    ((engine, server),) = json.loads(file.read_text())["rounds"]
    for result in (engine, server):
        assert (result["num_requests"], result["num_errors"], result["num_output_tokens"]) == (3, 0, 12)
        assert abs(result["num_prompt_tokens"] - 60) <= 3
    assert f"at least {float(target):.0%}" in done.stdout
