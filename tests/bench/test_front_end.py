"""benchmarks/front_end.py as a user runs it, and that it tells a right answer from a wrong one."""

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
    import front_end_works

    return front_end_works


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    write_stub_model(tmp_path)
    return tmp_path


def completion(**changes: Any) -> dict[str, Any]:
    answer = {"id": "cmpl-r7", "model": "stub", "choices": [{"text": "x", "finish_reason": "length"}]}
    return answer | {"usage": {"prompt_tokens": 0, "completion_tokens": 1}} | changes


def test_a_completion_must_be_the_answer_to_its_request(works: ModuleType, model_dir: Path) -> None:
    work = works.Completions(model_dir)
    usage = {"prompt_tokens": work._num_tokens[3], "completion_tokens": 1}
    work.check(3, "r7", json.dumps(completion(usage=usage)).encode())
    wrong: list[dict[str, Any]] = [
        {"id": "cmpl-r8"},
        {"model": "other"},
        {"choices": []},
        {"choices": [{"text": "x", "finish_reason": "stop"}]},
        {"usage": {**usage, "completion_tokens": 2}},
        {"usage": {**usage, "prompt_tokens": 1}},
        {"id": 7},
    ]
    for changes in wrong:
        with pytest.raises(works.WrongAnswer):
            work.check(3, "r7", json.dumps(completion(usage=usage) | changes).encode())


def test_a_stream_must_be_whole(works: ModuleType, model_dir: Path) -> None:
    work = works.ChatStreams(model_dir)
    head = {"id": "chatcmpl-r7", "model": "stub"}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "x"}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 2000, "completion_tokens": 4}},
    ]
    events = [b"data: " + json.dumps(head | chunk).encode() + b"\n\n" for chunk in chunks]
    done = b"data: [DONE]\n\n"
    work.check(0, "r7", b"".join(events) + done)
    for broken in ([*events], [*events[1:], done], [events[0], events[2], done], [*events[:2], done], [*events, done, b"x"]):
        with pytest.raises(works.WrongAnswer):
            work.check(0, "r7", b"".join(broken))


@pytest.mark.e2e
def test_a_short_run_counts_and_checks(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = f"--no-tls --requests 100 --warmup 100 --connections 8 --rounds 1 --json {file}"
    done = subprocess.run([sys.executable, str(BENCHMARKS / "front_end.py"), *options.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert [(len(one["times_ms"]), one["num_connections"], one["failures"]) for one in run["runs"]] == [(100, 8, []), (100, 8, [])]
    assert all(one["cpu_s"] > 0 for one in run["runs"])
    assert run["growth"]
