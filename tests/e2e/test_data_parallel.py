"""Several engines in one server: real ones, with a tiny model."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live_server import LiveServer
from tiny_adapters import make_adapter
from tiny_served import make_served_model

from headway.server.loading.model_config import read_config
from headway.server.source.resolve import resolve_model

pytestmark = pytest.mark.e2e

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PROMPTS = [f"{'A long beginning that many share. ' * 8}{n}" if n % 2 else f"Number {n} is short" for n in range(16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def adapters(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(tmp_path_factory.mktemp("adapters"))
    config = read_config(resolve_model(model, cache_dir=directory))
    make_adapter(directory / "good", config, seed=1, spread=0.5)
    return directory


@pytest.fixture(scope="module")
def server(model: str) -> Iterator[LiveServer]:
    """Two engines behind two API processes."""
    with LiveServer(model, "-dp", "2", "-asc", "2", "--enable-sleep-mode", "--enable-dev-routes", env=ONE_THREAD) as live:
        yield live.wait_ready()


def ask(server: LiveServer, prompt: str, **more: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **more}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tokens_of(answer: dict[str, Any]) -> list[int]:
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


def by_engine(server: LiveServer, name: str, label: str = "") -> list[float]:
    """The values of engine 0, 1 .. in the series with ``label``; several add up."""
    values: dict[str, float] = {}
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    for engine, value in re.findall(rf'^{name}{{.*?engine="(\d+)".*?{label}.*?}} (\S+)$', text, re.MULTILINE):
        values[engine] = values.get(engine, 0.0) + float(value)
    assert sorted(values) == ["0", "1"], f"{name}: {values}"
    return [values["0"], values["1"]]


def test_answers_are_those_of_one_engine(server: LiveServer, model: str) -> None:
    with LiveServer(model, env=ONE_THREAD) as alone:
        alone.wait_ready()
        expected = [tokens_of(ask(alone, prompt)) for prompt in PROMPTS]
    for _ in range(2):  # with nothing in the caches, and then with something
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda prompt: tokens_of(ask(server, prompt)), PROMPTS)) == expected


def test_answers_of_a_real_model_are_those_of_one_engine() -> None:
    questions = ["The capital of France is", "Once upon a time", "def fib(n):", "In 1969", "Water boils at", "The sky is blue because"]
    answers = []
    for num_engines in ("1", "2"):
        with LiveServer("demo", "--max-model-len", "2048", "-dp", num_engines) as demo, ThreadPoolExecutor(4) as pool:
            demo.wait_ready()
            answers.append(list(pool.map(lambda text, demo=demo: tokens_of(ask(demo, text, max_tokens=16)), questions)))
    assert answers[0] == answers[1]


def test_requests_are_spread_and_every_series_adds_up(server: LiveServer) -> None:
    series = ("request_success_total", "generation_tokens_total", "time_to_first_token_seconds_count", "prefix_cache_queries_total")
    before = {name: by_engine(server, f"vllm:{name}") for name in series}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(server, f"{n:02d} of forty", n=2, temperature=1), range(20)))
    assert all(len({choice["text"] for choice in answer["choices"]}) == 2 for answer in answers)  # choices on two engines differ
    for _ in range(6):  # whichever process is asked
        gained = {name: [b - a for a, b in zip(before[name], by_engine(server, f"vllm:{name}"), strict=True)] for name in series}
        assert sum(gained["request_success_total"]) == sum(gained["time_to_first_token_seconds_count"]) == 40
        assert sum(gained["generation_tokens_total"]) == 8 * 40
        assert sum(gained["prefix_cache_queries_total"]) == len("00 of forty") * 40
        assert min(gained["request_success_total"]) >= 12
    assert by_engine(server, "vllm:num_requests_running") == by_engine(server, "vllm:kv_cache_usage_perc") == [0, 0]
    assert min(by_engine(server, "vllm:iteration_tokens_total_count")) > 0
    assert "2 engines; what follows is of each" in server.log()
    assert "1 threads" in server.log()


def test_the_load_of_both_is_told(server: LiveServer) -> None:
    headers = {"endpoint-load-metrics-format": "JSON"}
    body = {"prompt": "x", "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)
    assert '"num_requests_waiting": 0.0' in answer.headers["endpoint-load-metrics"]


def test_all_sleep_and_wake(server: LiveServer) -> None:
    before = tokens_of(ask(server, PROMPTS[0]))
    assert httpx.post(f"{server.url}/sleep?level=1", timeout=60).status_code == 200
    server.wait_for(lambda: {httpx.get(f"{server.url}/health").json()["status"] for _ in range(8)} == {"sleeping"})
    assert by_engine(server, "vllm:engine_sleep_state", 'sleep_state="weights_offloaded"') == [1, 1]
    assert by_engine(server, "vllm:engine_sleep_state", 'sleep_state="awake"') == [0, 0]
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}, timeout=60).status_code == 503
    assert httpx.post(f"{server.url}/wake_up", timeout=60).status_code == 200
    server.wait_for(lambda: {httpx.get(f"{server.url}/health").json()["status"] for _ in range(8)} == {"ok"})
    assert tokens_of(ask(server, PROMPTS[0])) == before
    assert httpx.post(f"{server.url}/reset_prefix_cache", timeout=60).json() == {"success": True}


def test_a_shared_prefix_is_found_and_an_adapter_is_in_every_engine(model: str, adapters: Path) -> None:
    options = ("--enable-lora", "--lora-allowed-prefixes", str(adapters))
    with LiveServer(model, "-dp", "2", *options, env=ONE_THREAD) as server:
        server.wait_ready()
        hits = []
        for conversation in range(4):  # each of three turns; they meet no other's prefix
            text = f"Conversation {conversation}: " + str(conversation) * 300
            for turn in range(3):
                usage = ask(server, text + "!" * turn * 40)["usage"]
                hits.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert hits[::3] == [0] * 4
        assert min(hits[1::3] + hits[2::3]) >= 256
        assert min(by_engine(server, "vllm:prefix_cache_hits_total")) > 0

        registered = httpx.post(f"{server.url}/adapters", json={"name": "a", "src": f"{adapters}/good", "preload": True}, timeout=60)
        assert registered.status_code == 200, registered.text
        with ThreadPoolExecutor(8) as pool:
            adapted = list(pool.map(lambda _: tuple(tokens_of(ask(server, "The same question", model="a"))), range(16)))
        assert len(set(adapted)) == 1
        assert set(adapted) != {tuple(tokens_of(ask(server, "The same question")))}
        assert server.stop() == 0


async def streams_until_a_kill(server: LiveServer, count: int, victim: psutil.Process) -> tuple[list[str], float]:
    """(what was the end of each stream, seconds from the kill to the last of them)."""
    begun = asyncio.Semaphore(0)

    async def stream(client: httpx.AsyncClient, number: int) -> str:
        body = {"prompt": f"{number} things", "max_tokens": 60_000, "stream": True, "ignore_eos": True}
        last = ""
        async with client.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not last:
                    begun.release()
                last = line if line.startswith("data: {") else last
        return last

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=count)) as client:
        tasks = [asyncio.create_task(stream(client, number)) for number in range(count)]
        for _ in range(count):
            await asyncio.wait_for(begun.acquire(), 60)
        victim.kill()
        killed = time.monotonic()
        return await asyncio.gather(*tasks), time.monotonic() - killed


def engines_of(server: LiveServer) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    followers = {int(pid) for pid in re.findall(r"API process \d+ is process (\d+)", server.log())}
    return [child for child in children if "spawn_main" in " ".join(child.cmdline()) and child.pid not in followers]


@pytest.mark.alone
def test_a_killed_engine_ends_all_streams_with_its_name_and_leaves_nothing(model: str) -> None:
    with LiveServer(model, "-dp", "2", "-asc", "2", env=ONE_THREAD) as server:
        server.wait_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        engines = engines_of(server)
        assert len(engines) == 2
        ends, seconds = asyncio.run(streams_until_a_kill(server, 32, max(engines, key=lambda engine: engine.pid)))
        assert {re.findall(r"engine process \d was killed \(SIGKILL\)", end)[0] for end in ends} == {
            "engine process 1 was killed (SIGKILL)"
        }
        assert seconds < 5
        told = {httpx.get(f"{server.url}/ping").text for _ in range(8)}
        assert all("engine process 1 was killed (SIGKILL)" in text for text in told), told
        assert not psutil.wait_procs(engines, timeout=60)[1]  # the other one, too
        assert server.process.wait(timeout=60) == 1
        assert server.log().splitlines()[-1].startswith("headway: error: the engine has stopped: engine process 1 was killed (SIGKILL)")
        assert not psutil.wait_procs(children, timeout=60)[1]


def test_an_engine_that_can_not_start_ends_the_server_once(model: str) -> None:
    options = ("--kv-cache-memory-bytes", "1000", "--max-model-len", "4096")
    with LiveServer(model, "-dp", "3", *options, env=ONE_THREAD) as server:
        assert server.process.wait(timeout=60) == 2
        assert server.log().count("fewer than --max-model-len 4096") == 1
        assert server.log().splitlines()[-1].startswith("headway: error: the KV cache holds ")
