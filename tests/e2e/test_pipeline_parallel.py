"""A real server whose layers are cut into stages: the same answers, and nothing left over, whoever is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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

PROMPTS = [[504, 3575, 282, 4649, 314], [504, 3575], [4649, 314, 504, 282]]
NUM_STREAMS = 8


def ranks_of(server: LiveServer) -> list[int]:
    """From rank 1 on."""
    return sorted(pid for pid, command in descendants(server.process.pid).items() if "rank_entry" in command)


def test_the_demo_model_in_two_stages() -> None:
    """As users start it, with the blocks of its file: to the bit what one process computes."""
    with LiveServer("demo", "--device", "cpu", "--max-model-len", "512", env={"SM_VLLM_PIPELINE_PARALLEL_SIZE": "2"}) as server:
        alone = make_engine(demo_files(), model={"max_model_len": 512, "dtype": "auto"})
        outputs = run(alone, [request(str(number), prompt, max_tokens=12) for number, prompt in enumerate(PROMPTS)])

        def ask(prompt: list[int]) -> list[int]:
            body = {"model": "demo", "prompt": prompt, "max_tokens": 12, "temperature": 0, "return_token_ids": True}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
            found: list[int] = answer.json()["choices"][0]["token_ids"]
            return found

        server.wait_ready(240)
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            assert list(pool.map(ask, PROMPTS)) == [outputs[str(number)].token_ids for number in range(len(PROMPTS))]
        (rank,) = ranks_of(server)
        assert server.stop() == 0
        assert not is_running(rank)


def test_more_stages_than_layers_are_refused() -> None:
    with LiveServer("demo", "--device", "cpu", "-pp", "31") as server:
        assert server.process.wait(60) == 2
        told = "--pipeline-parallel-size 31: this model has 30 layers, and each stage needs one; the nearest that works is 30"
        assert told in server.log().splitlines()[-1]


def test_a_killed_stage_ends_every_stream_with_its_cause(tmp_path: Path) -> None:
    """The first of three, which the engine itself exchanges nothing with."""
    model = make_served_model(tmp_path, num_layers=3)
    with LiveServer(model, "--device", "cpu", "--dtype", "float32", "--max-model-len", "4096", "-pp", "3") as server:
        server.wait_ready()
        family, victim = descendants(server.process.pid), ranks_of(server)[-1]
        all_run = threading.Barrier(NUM_STREAMS + 1)
        killed = threading.Event()

        def read(number: int) -> tuple[str, float]:
            body = {"prompt": [number], "max_tokens": 4000, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
                lines = stream.iter_lines()
                next(lines)
                all_run.wait(60)
                killed.wait(60)
                return "".join(lines), time.monotonic()

        with ThreadPoolExecutor(NUM_STREAMS) as pool:
            streams = [pool.submit(read, number) for number in range(NUM_STREAMS)]
            all_run.wait(60)
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            killed.set()
            for stream in streams:
                text, ended = stream.result()
                assert "rank 2 was killed (SIGKILL)" in text
                assert ended - began < 30  # those who wait for a rank would do so for minutes
        assert server.process.wait(60) == 1
        assert "rank 2 was killed (SIGKILL)" in server.log().splitlines()[-1]
        wait_until(lambda: not any(is_running(pid) for pid in family))
