"""A real server whose model is split over ranks: the same answers, and nothing left over, whoever is killed."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from demo_model import demo_files
from engine_driver import make_engine, request, run
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants, is_running
from tiny_served import make_served_model

from headway.server.source.files import ModelFiles

pytestmark = pytest.mark.e2e

PROMPT = [504, 3575, 282, 4649, 314]
TINY = ("--device", "cpu", "--dtype", "float32", "--max-model-len", "4096")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(tmp_path_factory.mktemp("tiny"))


def ranks_of(server: LiveServer) -> list[int]:
    return [pid for pid, command in descendants(server.process.pid).items() if "rank_entry" in command]


def test_the_demo_model_over_three_ranks() -> None:
    """In the reference arithmetic: of its own blocks' products activations are rounded to 8 bits, and what falls to either side of a step
    differs between sums of one and of three, which moves logprobs by 0.1."""
    with LiveServer(
        "demo", "--device", "cpu", "--dtype", "float32", "--max-model-len", "512", env={"SM_VLLM_TENSOR_PARALLEL_SIZE": "3"}
    ) as server:
        alone = make_engine(demo_files(), model={"max_model_len": 512})
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


@pytest.mark.alone
def test_nothing_is_left_when_the_engine_is_killed(model: str) -> None:
    """A rank's end is told as that of a stage: test_pipeline_parallel."""
    cause = "the engine process was killed (SIGKILL)"
    with LiveServer(model, *TINY, "-tp", "2") as server:
        server.wait_ready()
        (rank,) = ranks_of(server)
        family = descendants(server.process.pid)
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(psutil.Process(rank).ppid(), signal.SIGKILL)
            killed = time.monotonic()
            assert cause in "".join(lines)
            assert time.monotonic() - killed < 5
        assert server.process.wait(60) == 1
        assert cause in server.log().splitlines()[-1]
        wait_until(lambda: not any(is_running(pid) for pid in family))


def test_engines_of_several_ranks(model: str) -> None:
    """They answer as one process does, each by its own ranks, and are gone when the server is killed in the middle of answers."""
    prompts = [[*range(number, 40), number] for number in range(8)]
    alone = make_engine(ModelFiles("safetensors", Path(model), None, "tiny"), model={"max_model_len": 4096})
    outputs = run(alone, [request(str(number), prompt, max_tokens=8, ignore_eos=True) for number, prompt in enumerate(prompts)])
    expected = [outputs[str(number)].token_ids for number in range(len(prompts))]

    with LiveServer(model, *TINY, "-dp", "2", "-tp", "2") as server:

        def ask(prompt: list[int]) -> list[int]:
            body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
            found: list[int] = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["token_ids"]
            return found

        server.wait_ready()
        family = descendants(server.process.pid)
        assert len({psutil.Process(rank).ppid() for rank in ranks_of(server)}) == len(ranks_of(server)) == 2
        assert re.search(r" as the first of 2 ranks, 2 engines; what follows is of each$", server.log(), re.MULTILINE)
        with ThreadPoolExecutor(len(prompts)) as pool:
            assert list(pool.map(ask, prompts)) == expected
        served = re.findall(r"^vllm:request_success_total{.*?} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
        assert sum(map(float, served)) == len(prompts) > max(map(float, served))  # each engine had some

        body = {"prompt": ["a", "b"], "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            next(stream.iter_lines())
            server.process.kill()
            server.process.wait(60)
        wait_until(lambda: not any(is_running(pid) for pid in family))
