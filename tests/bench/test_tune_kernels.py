"""benchmarks/tune_kernels.py on tiny products in Triton's interpreter: what it writes is what launchers look up."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from headway.kernels import tuned
from headway.kernels.gpu import quant_matmul
from headway.kernels.tuned import LIBRARY, DecodeTiles, Tiles, forget_tables, tuned_decode, tuned_tiles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--device", "cpu", "--shapes", "tiny", "--jobs", "1", "--rows", "1"]
ONE_OF_EACH = r"_linear 128x|paged_attention \S+ 2$"

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for Triton's interpreter")


@pytest.fixture
def tune_kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HEADWAY_KERNELS", "triton")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tune_kernels
    import tuned_problems

    monkeypatch.setattr(tuned_problems, "num_input_sets", lambda *_: 1)
    return tune_kernels


def quick_times(monkeypatch: pytest.MonkeyPatch, seconds: Any) -> None:
    """Candidates are checked as always; their time is ``seconds(tiles)``."""
    import tuning

    monkeypatch.setattr(tuning, "seconds_a_call", lambda *_: seconds(tuned._tried.get()))


def test_a_table_holds_the_fastest_tiles(tune_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(tiles: Tiles | DecodeTiles) -> float:
        wanted = {"block_n": 32, "num_warps": 8, "num_splits": 2, "min_split_tokens": 64, "programs_per_multiprocessor": 3}
        return 1 + sum(getattr(tiles, name, value) != value for name, value in wanted.items())

    import tuned_problems

    few = {"num_splits": (1, 2), "block_n": (32, 64), "block_k": (128,), "num_warps": (4, 8)}
    monkeypatch.setattr(tuned_problems, "_FEW_OPTIONS", few)
    decode = {"min_split_tokens": (32, 64), "programs_per_multiprocessor": (3,), "block_n": (16, 32), "num_warps": (8,)}
    monkeypatch.setattr(tuned_problems, "_DECODE_OPTIONS", decode)
    quick_times(monkeypatch, seconds)
    out = tmp_path / "tables" / "a_chip.json"
    assert tune_kernels.main([*TINY, "--only", ONE_OF_EACH, "--out", str(out)]) == 0
    monkeypatch.setattr(tuned, "TABLES", out.parent)
    forget_tables()
    for operation, sizes in (
        ("int8_linear", (128, 64)),
        ("fp8_linear", (128, 64, 1, 0)),
        ("fp8_linear", (128, 64, 1, 128)),
        ("int4_linear", (128, 64, 64)),
    ):
        tiles = tuned_tiles(operation, "a_chip", sizes, 1)
        assert tiles is not None
        # One row times 4-bit weights is not split.
        assert (tiles.block_n, tiles.num_warps, tiles.num_splits) == (32, 8, 1 if operation == "int4_linear" else 2)
    for key_bytes in (4, 1):
        assert tuned_decode("a_chip", (2, 16, key_bytes), 2) == DecodeTiles(32, 64, programs_per_multiprocessor=3, num_warps=8)
    forget_tables()


def test_what_gives_wrong_results_is_not_taken(
    tune_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = quant_matmul.quantize_int8

    def halved(x: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        tiles, (values, scale) = tuned._tried.get(), right(x, block)
        return values, scale if isinstance(tiles, Tiles) and tiles.num_warps != 8 else scale / 2

    monkeypatch.setattr(quant_matmul, "quantize_int8", halved)
    quick_times(monkeypatch, lambda tiles: 1 / tiles.num_warps)
    out = tmp_path / "a_chip.json"
    assert tune_kernels.main([*TINY, "--only", "int8_linear 128x", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["int8_linear"]["128x64"]["1"]["num_warps"] == 4
    assert "wrong by 5.0e-01" in capsys.readouterr().out


def test_the_library_is_taken_where_it_is_faster(tune_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no start for others: its blocks are empty."""
    from tuning import Inputs, Problem, search

    def product() -> torch.Tensor:
        tiles = tuned_tiles("linear", "", (1, 1), 1)
        assert tiles is not None
        assert tiles == LIBRARY or tiles.block_n in (4, 8)
        return torch.ones(1)

    problem = Problem("linear", (1, 1), 1, Tiles(1, 4, 16), {"block_n": (8,)}, lambda: [Inputs([product], torch.ones(1))], (LIBRARY,))
    for library_s, expected in ((1.0, LIBRARY), (3.0, Tiles(1, 8, 16))):
        quick_times(monkeypatch, lambda tiles, library_s=library_s: library_s if tiles == LIBRARY else 16 / tiles.block_n)
        found = search(problem, torch.device("cpu"), float("inf"), None)
        assert found is not None
        assert (found.tiles, found.estimate_s, found.num_timed, found.failures) == (expected, 4.0, 3, {})


def test_a_second_run_adds_to_the_table(tune_kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_times(monkeypatch, lambda tiles: 1.0)
    out = tmp_path / "a_chip.json"
    before = {"int8_linear": {"128x64": {"64": {"block_m": 1, "block_n": 2, "block_k": 3}}}, "other": {"1": {"1": {"block_m": 1}}}}
    out.write_text(json.dumps(before))
    assert tune_kernels.main([*TINY, "--only", "int8_linear 128x", "--out", str(out)]) == 0
    after = json.loads(out.read_text())
    assert after["other"] == before["other"]
    assert after["int8_linear"]["128x64"]["64"] == before["int8_linear"]["128x64"]["64"]
    assert after["int8_linear"]["128x64"]["1"]["block_n"] == 64  # the estimate: nothing was faster


def test_what_there_is_no_time_for_is_told(tune_kernels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a_chip.json"
    assert tune_kernels.main([*TINY, "--only", ONE_OF_EACH, "--seconds", "0", "--out", str(out)]) == 0
    assert "no time left for 6 problems, from 'paged_attention 2x16x4 2' on" in capsys.readouterr().out
    assert not out.exists()


def test_where_there_is_no_gpu_a_file_must_be_named(tune_kernels: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_kernels.main(["--device", "cpu"]) == 2
    assert "--out" in capsys.readouterr().err
