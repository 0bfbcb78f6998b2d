"""A real server whose model is split over ranks: the same answers, and nothing left over, whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from demo_model import demo_files
from engine_driver import make_engine, request, run
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants, is_running
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e

PROMPT = [504, 3575, 282, 4649, 314]


def ranks_of(server: LiveServer) -> list[int]:
    return [pid for pid, command in descendants(server.process.pid).items() if "rank_entry" in command]


def test_the_demo_model_over_three_ranks() -> None:
    with LiveServer("demo", "--device", "cpu", "--max-model-len", "512", env={"SM_VLLM_TENSOR_PARALLEL_SIZE": "3"}) as server:
        alone = make_engine(demo_files(), model={"dtype": "auto", "max_model_len": 512})
        expected = run(alone, [request("alone", PROMPT, max_tokens=8)])["alone"].token_ids
        server.wait_ready(240)
        body = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["token_ids"] == expected
        ranks = ranks_of(server)
        assert len(ranks) == 2
        assert server.stop() == 0
        assert not any(is_running(pid) for pid in ranks)


def test_a_size_that_does_not_work_is_refused() -> None:
    with LiveServer("demo", "--device", "cpu", "-tp", "2") as server:
        assert server.process.wait(60) == 2
        assert "--tensor-parallel-size 2: this model has 9 attention heads, 3 key-value heads" in server.log()
        assert "the nearest that works is 3" in server.log().splitlines()[-1]


@pytest.mark.parametrize("victim", ["rank", "server"])
def test_nothing_is_left_when_one_is_killed(tmp_path: Path, victim: str) -> None:
    model = make_served_model(tmp_path)
    with LiveServer(model, "--device", "cpu", "-tp", "2", "--max-model-len", "4096") as server:
        server.wait_ready()
        (rank,) = ranks_of(server)
        family = descendants(server.process.pid)
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(rank if victim == "rank" else server.process.pid, signal.SIGKILL)
            killed = time.monotonic()
            if victim == "rank":
                assert "rank 1 was killed (SIGKILL)" in "".join(lines)
                assert time.monotonic() - killed < 5
        server.process.wait(30)
        if victim == "rank":
            assert "rank 1 was killed (SIGKILL)" in server.log().splitlines()[-1]
        wait_until(lambda: not any(is_running(pid) for pid in family), 5)
