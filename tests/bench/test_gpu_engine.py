"""benchmarks/gpu_engine.py as a user runs it, on a tiny model on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--device", "cpu", "--shapes", "tiny", "--batches", "1,3", "--context", "40", "--steps", "4", "--prompt", "48", "--requests", "4"]
SIZES += ["--input-len", "20", "--output-len", "5"]
ENGINE = ["--", "--kv-cache-memory-bytes", "4M"]


@pytest.fixture
def gpu_engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_engine

    return gpu_engine


def test_every_work_stands_beside_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    argv = [sys.executable, str(BENCHMARKS / "gpu_engine.py"), *SIZES, "--json", str(file), *ENGINE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    works = {result["work"]: result["measured"] for result in record["results"]}
    assert {name: figures["num_tokens"] for name, figures in works.items()} == {
        "a step of 1 at 40": 1,
        "a step of 3 at 40": 3,
        "a prompt of 48": 48,
        "4 requests, 20 in, 5 out": 20,
    }
    assert all(figures["seconds"] > 0 and figures["bound_s"] > 0 for figures in works.values())
    layers, output, embedding = 2 * (64 * 128 + 64 * 64 + 64 * 192 + 96 * 64), 64 * 300, 64 * 300
    assert record["engine"]["weight_bytes"] == 4 * (layers + output + embedding + 5 * 64)
    # In the middle of 4 steps of one request, which has made 1 token with its prompt and 4 before they are timed, there are 40 + 5 + 2
    # keys; one more or less where steps overlap.
    copy = record["limits"]["copy"]
    a_token = 2 * 2 * 2 * 16 * 4
    bound = (4 * (layers + output + 5 * 64) + 47 * a_token) / copy
    assert works["a step of 1 at 40"]["bound_s"] == pytest.approx(bound, abs=1.01 * a_token / copy)
    flops = 2 * 48 * layers + 2 * output + 2 * 4 * 64 * 48 * 49 // 2
    assert works["a prompt of 48"]["bound_s"] == pytest.approx(flops / record["limits"]["rates"]["fp32"])


def test_a_work_that_fails_leaves_the_others(gpu_engine: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engine.json"
    few_blocks = ["--", "--num-gpu-blocks-override", "2"]  # of 32 tokens
    argv = ["--device", "cpu", "--shapes", "tiny", "--batches", "1", "--context", "20", "--steps", "4", "--prompt", "0"]
    argv += ["--requests", "2", "--input-len", "80", "--output-len", "4"]
    assert gpu_engine.main([*argv, "--json", str(file), *few_blocks]) == 1
    step, crowd = json.loads(file.read_text())["results"]
    assert step["error"] is None
    assert crowd["measured"] is None
    assert "FAILED: " + crowd["error"] in capsys.readouterr().out
