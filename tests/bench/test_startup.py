"""benchmarks/startup.py as a user runs it, and how it reads logs and import times."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_served import make_served_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def timeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import startup_timeline

    return startup_timeline


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import startup_imports

    return startup_imports


def told(time: str, message: str) -> str:
    return json.dumps({"time": f"1970-01-01T00:01:{time}Z", "level": "INFO", "role": "api", "message": message})


LOG = [
    "a library's own line",
    told("40.300", "phase getting the model 0.10 s"),
    told("40.800", "phase importing the HTTP server 0.40 s"),
    # Read late: the messages say when the phases were, by their lengths.
    told("43.000", "phase starting the engine process 0.20 s"),
    told("43.000", "phase importing torch 1.50 s"),
    told("43.000", "  model    demo (llama, bf16, 0.50 GiB of weights)"),
]


def test_phases_become_bars_of_two_processes(timeline: ModuleType) -> None:
    found = [(bar.process, bar.name, round(bar.start_s, 3), round(bar.end_s, 3)) for bar in timeline.bars(LOG, 100.0)]
    assert found == [
        ("API process", "Python and the options", 0.0, 0.2),
        ("API process", "getting the model", 0.2, 0.3),
        ("engine process", "starting the engine process", 0.3, 0.5),
        ("API process", "importing the HTTP server", 0.4, 0.8),
        ("engine process", "importing torch", 0.5, 2.0),
    ]
    assert timeline.weight_bytes(LOG) == 2**29


def test_a_log_without_phases_is_told(timeline: ModuleType) -> None:
    with pytest.raises(ValueError, match="--log-format json"):
        timeline.bars(["plain text"], 100.0)


def test_import_times_are_summed_by_package(imports: ModuleType) -> None:
    report = """import time: self [us] | cumulative | imported package
import time:    250000 |     250000 |     torch._C
import time:    500000 |     750000 |   torch
import time:    100000 |     100000 |   numpy
import time:      1000 |     851000 | headway.server.engine.build
"""
    found = imports.summed("headway.server.engine.build", report)
    assert list(found.packages) == ["torch", "numpy", "headway"]
    assert found.packages["torch"] == pytest.approx(0.75)
    assert found.line(1) == "torch 0.75, others 0.10"


def test_the_picture_has_a_chart_a_start(timeline: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from startup_picture import draw

    starts: dict[str, Any] = {name: timeline.bars(LOG, 100.0) for name in ("fp32", "bf16")}
    draw(starts, dict.fromkeys(starts, 2.1), 4.0, tmp_path / "starts.png")
    assert (tmp_path / "starts.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.e2e
def test_one_start_is_split_and_weighed(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    words = [make_served_model(tmp_path), "--forms", "fp32", "--starts", "1", "--most-s", "600", "--json", str(file)]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "startup.py"), *words], capture_output=True, text=True)
    report = json.loads(file.read_text()) if file.exists() else None
    assert report is not None, done.stdout + done.stderr
    (start,) = report["starts"]
    by_name = {bar["name"]: bar["end_s"] - bar["start_s"] for bar in start["bars"]}
    assert {"Python and the options", "importing torch", "loading weights", "loading the tokenizer"} <= set(by_name)
    engine = [bar for bar in start["bars"] if bar["process"] == "engine process"]
    assert all(first["end_s"] == pytest.approx(second["start_s"]) for first, second in itertools.pairwise(engine))
    assert engine[-1]["end_s"] <= start["ready_s"] + 0.1  # 10 ms a phase are rounding
    assert start["pss_bytes"] >= start["uss_bytes"] > 50e6
    assert report["imports"]["engine process"]["packages"]["torch"] > 0
    assert done.returncode == (0 if start["pss_bytes"] <= 1.3 * start["weight_bytes"] + 400e6 else 1)


@pytest.mark.e2e
def test_a_load_is_timed_and_its_peak_told() -> None:
    words = ["--mb", "80", "--forms", "bfloat16,int8", "--most", "100"]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "load_peak.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"^(\w+): (\d+) MB of files, (\d+) MB of weights in .* peak (\d+\.\d+) times the weights$", done.stdout, re.MULTILINE
    )
    assert [form for form, *_ in found] == ["bfloat16", "int8"]
    assert all(float(peak) >= 0.9 for *_, peak in found), "what is kept was in memory at the peak"
    assert int(found[0][1]) == pytest.approx(int(found[0][2]), abs=2)
