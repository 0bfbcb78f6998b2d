"""benchmarks/server_path.py and scheduler_cost.py as a user runs them, and that a wrong answer is told from a right one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headway.server.bench.stub_model import write_stub_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import server_path_works

    return server_path_works


def _stream(pieces: list[str], num_prompt_tokens: int, num_tokens: int) -> list[bytes]:
    """Packets of an answer, cut where no chunk ends."""
    chunks: list[dict[str, Any]] = [{"choices": [{"text": piece}]} for piece in pieces]
    chunks[-1]["choices"][0]["finish_reason"] = "length"
    chunks.append({"choices": [], "usage": {"prompt_tokens": num_prompt_tokens, "completion_tokens": num_tokens}})
    events = [b"data: " + json.dumps({"id": "cmpl-1", "model": "stub"} | chunk).encode() + b"\n\n" for chunk in chunks]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in [*events, b"data: [DONE]\n\n"]) + b"0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed
    return [whole[at : at + 50] for at in range(0, len(whole), 50)]


def test_a_stream_must_bring_the_stubs_own_text(works: ModuleType, tmp_path: Path) -> None:
    write_stub_model(tmp_path)
    checker = works.Checker(tmp_path)
    work = works.Work("completions", False, True, 3, 1, 1)
    pieces = [checker._pieces[at] for at in (5, 6, 7)]

    def outcome(pieces: list[str], num_prompt_tokens: int = 5, num_tokens: int = 3) -> tuple[Any, int]:
        packets = _stream(pieces, num_prompt_tokens, num_tokens)
        exchange = works.Exchange(0, 0.0, [float(at) for at in range(len(packets))], packets)
        (found,), num_events = checker.outcomes(work, works.Load([exchange], 1.0, None))
        return found, num_events

    good, num_events = outcome(pieces)
    assert (good.error, num_events) == (None, 3)
    for wrong in (outcome(pieces[:2]), outcome([*pieces, "x"]), outcome(pieces[::-1]), outcome(pieces, 6), outcome(pieces, 5, 2)):
        assert wrong[0].error.startswith("WrongAnswer: ")


def test_every_work_is_answered_by_a_real_server(tmp_path: Path) -> None:
    """The targets are not met with so little work: the exit status says so."""
    result = tmp_path / "result.json"
    argv = [sys.executable, str(BENCHMARKS / "server_path.py"), "--streams", "4", "--tokens", "16", "--step-ms", "1"]
    argv += ["--seconds", "0.02", "--rounds", "1", "--json", str(result)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    results = json.loads(result.read_text())["results"]
    assert len(results) == 4
    for found in results:
        work, summary = found["work"], found["summary"]
        assert (summary["num_errors"], summary["num_requests"]) == (0, work["num_requests"]), ended.stdout
        assert summary["num_output_tokens"] == work["num_requests"] * work["num_tokens"]
        assert found["num_events"] <= summary["num_output_tokens"]


def test_the_schedulers_cost_is_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scheduler_cost

    monkeypatch.setattr(scheduler_cost, "RUNNING", (1, 4))
    monkeypatch.setattr(scheduler_cost, "WAITING", (0, 50))
    monkeypatch.setattr(scheduler_cost, "spare_long_lived", lambda: None)
    assert scheduler_cost.main(["--steps", "5"]) in (0, 1)
    told = capsys.readouterr().out
    assert "| fcfs: µs a step" in told
    assert told.count("| 50 waiting |") == 2
