"""A real server whose model is split over ranks: the same answers, and nothing left over, whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants, is_running
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e

PROMPT = "The capital of France is"


def ranks_of(server: LiveServer) -> list[int]:
    return [pid for pid, command in descendants(server.process.pid).items() if "rank_entry" in command]


def tokens(server: LiveServer, prompt: str, model: str) -> list[int]:
    body = {"model": model, "prompt": prompt, "max_tokens": 10, "temperature": 0, "return_token_ids": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def test_the_demo_model_over_three_ranks() -> None:
    options = ("demo", "--device", "cpu", "--dtype", "float32", "--max-model-len", "512")
    with LiveServer(*options, env={"SM_VLLM_TENSOR_PARALLEL_SIZE": "3"}) as server, LiveServer(*options) as one:
        for each in (one, server):
            each.wait_ready(240)
        assert tokens(server, PROMPT, "demo") == tokens(one, PROMPT, "demo")
        ranks = ranks_of(server)
        assert len(ranks) == 2
        assert server.stop() == 0
        assert not any(is_running(pid) for pid in ranks)


def test_a_size_that_does_not_work_is_refused() -> None:
    with LiveServer("demo", "--device", "cpu", "-tp", "2") as server:
        assert server.process.wait(60) == 2
        assert "--tensor-parallel-size 2: this model has 9 attention heads, 3 key-value heads" in server.log()
        assert "the nearest that works is 3" in server.log().splitlines()[-1]


@pytest.mark.parametrize("victim", ["rank", "engine", "server"])
def test_nothing_is_left_when_one_is_killed(tmp_path: Path, victim: str) -> None:
    model = make_served_model(tmp_path)
    with LiveServer(model, "--device", "cpu", "-tp", "2", "--max-model-len", "4096") as server:
        server.wait_ready()
        (rank,) = ranks_of(server)
        family = descendants(server.process.pid)
        engine = next(pid for pid in family if rank in descendants(pid))
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill({"rank": rank, "engine": engine, "server": server.process.pid}[victim], signal.SIGKILL)
            killed = time.monotonic()
            if victim == "rank":
                assert "rank 1 was killed (SIGKILL)" in list(lines)[-1] + "".join(lines)
                assert time.monotonic() - killed < 5
        server.process.wait(30)
        if victim == "rank":
            assert "rank 1 was killed (SIGKILL)" in server.log().splitlines()[-1]
        wait_until(lambda: not any(is_running(pid) for pid in family), 5)
