"""benchmarks/tune_step.py on a tiny step in Triton's interpreter: what it keeps is what launchers look up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from headway.kernels import tuned
from headway.kernels.tuned import DecodeTiles, Tiles, forget_tables, tuned_decode, tuned_tiles

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--device", "cpu", "--shapes", "tiny", "--context", "32", "--layers", "1", "--jobs", "1", "--only", "o"]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for Triton's interpreter")


def test_the_fastest_choice_is_kept_beside_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_KERNELS", "triton")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tune_step

    wanted = Tiles(1, 2, 1024, num_warps=4, num_stages=1)
    candidates = [Tiles(1, 4, 1024, num_warps=4, num_stages=1), wanted]
    monkeypatch.setattr(tune_step, "_candidates", lambda name, batch: candidates)
    tried: list[Any] = []
    packed_linear = tune_step.packed_linear
    monkeypatch.setattr(tune_step, "packed_linear", lambda x, w: (tried.append(tuned._tried.get()), packed_linear(x, w))[1])

    def seconds(device: torch.device, calls: list[Any]) -> float:
        tried.clear()
        calls[0]()
        return 1.0 if tried[1] == wanted else 2.0  # the second product of a layer

    monkeypatch.setattr(tune_step, "seconds_a_call", seconds)
    out = tmp_path / "a_chip.json"
    measured, another = Tiles(1, 8, 512, num_warps=2, num_stages=1), Tiles(16, 32, 128, num_warps=4, num_stages=2)
    out.write_text(json.dumps({"linear": {"64x64": {"1": asdict(measured), "16": asdict(another)}, "8x8": {"1": asdict(another)}}}))
    assert tune_step.main([*TINY, "--out", str(out)]) == 0
    monkeypatch.setattr(tuned, "TABLES", tmp_path)
    forget_tables()
    assert tuned_tiles("linear", "a_chip", (64, 64), 1) == wanted
    assert tuned_tiles("linear", "a_chip", (64, 64), 16) == tuned_tiles("linear", "a_chip", (8, 8), 1) == another, "as they were"
    assert isinstance(tuned_tiles("linear", "a_chip", (64, 96), 1), Tiles), "what the step was measured with"
    assert isinstance(tuned_decode("a_chip", (2, 16, 4), 2), DecodeTiles)
    forget_tables()


def test_without_a_gpu_a_file_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tune_step

    assert tune_step.main(TINY) == 2
    assert "--out" in capsys.readouterr().err
