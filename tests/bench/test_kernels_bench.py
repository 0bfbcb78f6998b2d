"""benchmarks/kernels.py as a user runs it, at tiny shapes on the CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """By its file: the folder of the kernels has the same name, and other libraries look for a package that is called so."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("benchmark_of_kernels", BENCHMARKS / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_every_kernel_has_a_row(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    argv = [sys.executable, str(BENCHMARKS / "kernels.py"), "--device", "cpu", "--shapes", "tiny", "--json", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(file.read_text())
    assert record["limits"]["copy"] > 0
    assert record["limits"]["rates"]["fp32"] > 0
    for row in record["rows"]:
        assert row["error"] is None
        assert row["seconds"] > 0
        assert row["fraction"] == pytest.approx(row["bound_s"] / row["seconds"])
    names = {row["kernel"] for row in record["rows"]}
    kinds = {"fused_add_rms_norm", "rope_and_cache", "rope_and_cache with QK norm", "silu_and_mul", "add_lora", "forbid_tokens"}
    kinds |= {"paged_attention", "prefill_attention", "linear (torch)", "linear (packed)", "linear (oneDNN)", "int8_linear", "int4_linear"}
    kinds |= {"fp8_linear, tensor", "fp8_linear, channel", "fp8_linear, block", "sampling, greedy", "sampling, top-p 0.9"}
    kinds |= {"paged_attention, fp8 pages", "rope_and_cache, fp8 pages"}
    assert kinds <= names
    assert done.stdout.count("\n| ") == 2 + len(record["rows"])


def test_a_kernel_that_fails_has_its_error_in_its_row(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import step_cases

    def broken(*_: object) -> None:
        raise RuntimeError("no such | instruction\nand more")

    monkeypatch.setattr(step_cases, "silu_and_mul", broken)
    file = tmp_path / "kernels.json"
    assert kernels.main(["--device", "cpu", "--shapes", "tiny", "--only", "^(silu|fused)", "--json", str(file)]) == 1
    rows = json.loads(file.read_text())["rows"]
    assert [row["kernel"] for row in rows] == ["fused_add_rms_norm", "silu_and_mul"] * 2
    assert [row["error"] for row in rows] == [None, "RuntimeError: no such / instruction"] * 2
    assert "FAILED: RuntimeError: no such / instruction" in capsys.readouterr().out


def test_bytes_and_operations_are_those_of_the_work(kernels: ModuleType) -> None:
    from kernel_case import TINY

    cases = {f"{case.kernel} {case.shape}": case for case in kernels._cases(TINY, CPU, "")}
    norm = cases["fused_add_rms_norm 16x64"]
    assert norm.num_bytes == 4 * (4 * 16 * 64 + 64)
    decode = cases["paged_attention batch 4, context 128"]
    assert decode.num_bytes == 4 * 4 * (2 * 128 * 2 * 16 + 2 * 4 * 16)
    assert decode.flops == 4 * 4 * 128 * 4 * 16
    in_fp8 = cases["paged_attention, fp8 pages batch 4, context 128"]
    assert in_fp8.num_bytes == 4 * (2 * 128 * 2 * 16 + 2 * 4 * 16 * 4)
    windowed = cases["prefill_attention 1x64, window 32"]
    assert windowed.flops == 4 * (32 * 33 // 2 + 32 * 32) * 4 * 16
    chunk = cases["prefill_attention 2x16 after 48"]
    assert chunk.flops == 4 * 2 * (16 * 48 + 16 * 17 // 2) * 4 * 16
    product = cases["int8_linear qkv 16x64 to 128"]
    assert product.num_bytes == 128 * 64 + 4 * 128 + 16 * (64 + 128) * 4
    assert (product.flops, product.arithmetic) == (2 * 16 * 64 * 128, "int8")


def test_small_inputs_are_drawn_often_enough_to_leave_the_cache(kernels: ModuleType) -> None:
    from device_timing import CPU_CACHE_BYTES, num_input_sets

    assert num_input_sets(CPU, CPU_CACHE_BYTES // 4) == 12
    assert num_input_sets(CPU, 4 * CPU_CACHE_BYTES) == 1
