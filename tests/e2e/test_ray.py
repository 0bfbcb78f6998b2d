"""Real servers whose ranks Ray places: on this host alone, and on two hosts of which one is lost under open streams."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import httpx
import psutil
import pytest
from disaggregated import config_of
from engine_driver import make_engine, request, run
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants, is_running
from ray_hosts import RayHosts, needs_hosts
from tiny_served import make_served_model

from headway.server.source.files import ModelFiles

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

PROMPT = [*range(5, 40)]
RANKS = ("--tensor-parallel-size", "2", "--pipeline-parallel-size", "2", "--distributed-executor-backend", "ray")
TINY = ("--device", "cpu", "--dtype", "float32", "--max-model-len", "4096", *RANKS)
KEYS = ("key1", "key2", "key3")
ORIGINS = ("https://service1.com", "https://service2.com")
NUM_STREAMS = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(tmp_path_factory.mktemp("tiny"), num_layers=3)


@pytest.fixture(scope="module")
def expected(model: str) -> list[int]:
    alone = make_engine(ModelFiles("safetensors", Path(model), None, "tiny"), model={"max_model_len": 4096})
    return run(alone, [request("alone", PROMPT, max_tokens=8, ignore_eos=True)])["alone"].token_ids


@pytest.fixture(scope="module")
def high_availability(model: str) -> Iterator[LiveServer]:
    """The example that users know, on one host."""
    options = [
        *("--api-key", ",".join(KEYS), "--allowed-origins", '["https://service1.com", "https://service2.com"]'),
        *("--enable-prefix-caching", "--max-num-seqs", "256", "--max-num-batched-tokens", "8192"),
    ]
    with LiveServer(model, *TINY, "--ray-address", "local", *options) as server:
        server.wait_ready(180)
        yield server


@pytest.fixture(scope="module")
def hosts() -> Iterator[RayHosts]:
    with RayHosts() as hosts:
        yield hosts


def ask(client: httpx.Client, key: str = "") -> list[int]:
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = client.post("/v1/completions", json=body, headers=headers).raise_for_status()
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def streams_that_end(client: httpx.Client, lose: object) -> tuple[list[str], float]:
    """(the last event but the mark of the end of each stream, seconds until all had ended) after ``lose`` was called within them."""
    assert callable(lose)
    began = Barrier(NUM_STREAMS + 1)

    def stream(number: int) -> str:
        body = {"prompt": "a" * (number + 1), "max_tokens": 4000, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            began.wait(60)
            return [line for line in lines if line.startswith("data: {")][-1]

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        streams = [pool.submit(stream, number) for number in range(NUM_STREAMS)]
        began.wait(60)
        lose()
        lost = time.monotonic()
        return [each.result(60) for each in streams], time.monotonic() - lost


def test_high_availability(high_availability: LiveServer, expected: list[int]) -> None:
    """Stages of two ranks, three keys and two origins."""
    with httpx.Client(base_url=high_availability.url, timeout=60) as client:
        assert [ask(client, key) for key in KEYS] == [expected] * 3
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            ask(client, ",".join(KEYS))
        for origin in ORIGINS:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            assert client.options("/v1/completions", headers=asked).headers["access-control-allow-origin"] == origin
    assert "up to 256 requests and 8192 tokens a step" in high_availability.log()


def test_a_cluster_of_this_host_alone(high_availability: LiveServer) -> None:
    """Heard by nobody else, and gone with the engine, however that one ends."""
    server = high_availability
    # A process that was just forked has its parent's words until it becomes another, and Ray rewrites its own while it runs.
    wait_until(lambda: _hosts_and_ranks(descendants(server.process.pid)) == (4, 3))
    family = descendants(server.process.pid)
    listening = [each for pid in family for each in psutil.Process(pid).net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert listening
    assert {each.laddr.ip.removeprefix("::ffff:") for each in listening} == {"127.0.0.1"}
    (cluster,) = [pid for pid, command in family.items() if "local_cluster" in command]
    os.kill(psutil.Process(cluster).ppid(), signal.SIGKILL)  # the engine
    assert server.process.wait(60) == 1
    wait_until(lambda: not any(is_running(pid) for pid in family), 60)


def _hosts_and_ranks(family: dict[int, str]) -> tuple[int, int]:
    commands = family.values()
    return sum("ray::RankHost" in command for command in commands), sum("rank_entry" in command for command in commands)


@needs_hosts
def test_a_prompt_goes_from_server_to_server_of_two_hosts_each(model: str, expected: list[int], hosts: RayHosts, tmp_path: Path) -> None:
    """The one that keeps it has a stage on either host, and its answer says where; the other has its engine on the second host."""
    pytest.importorskip("nixl_cu12")
    stages = ("--device", "cpu", "--dtype", "float32", "--max-model-len", "256", "-pp", "2", "--distributed-executor-backend", "ray")
    with ExitStack() as stack:
        clients = []
        for index, role in enumerate(("kv_producer", "kv_consumer")):
            uds = str(tmp_path / role)
            transfer = config_of(role, allowed_peers=list(hosts.addresses))
            options = ("--uds", uds, "--ray-address", hosts.cluster, "--kv-transfer-config", json.dumps(transfer))
            where = {"VLLM_NIXL_SIDE_CHANNEL_HOST": hosts.addresses[index], "VLLM_NIXL_SIDE_CHANNEL_PORT": str(5600 + 10 * index)}
            server = stack.enter_context(LiveServer(model, *stages, *options, env=hosts.environment | where, prefix=hosts.on(index)))
            transport = httpx.HTTPTransport(uds=uds)
            client = stack.enter_context(httpx.Client(transport=transport, base_url="http://localhost", timeout=60))
            server.wait_for(lambda uds=uds: Path(uds).exists())  # type: ignore[misc]
            server.wait_for(lambda client=client: client.get("/ping").status_code == 200, 180)  # type: ignore[misc]
            clients.append(client)
        keeper, reader = clients
        body = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        asked = {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        params = keeper.post("/v1/completions", json=body | asked).raise_for_status().json()["kv_transfer_params"]
        assert params["remote_hosts"] == list(hosts.addresses)
        answer = reader.post("/v1/completions", json=body | {"max_tokens": 8, "kv_transfer_params": params}).raise_for_status().json()
        assert answer["choices"][0]["token_ids"] == expected
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == len(PROMPT) - 1


@needs_hosts
def test_two_hosts_of_which_one_is_lost(model: str, expected: list[int], hosts: RayHosts, tmp_path: Path) -> None:
    """Rank 0 is on the first and exchanges tensors with two on the other: one of its own stage, one of the stage before."""
    uds = str(tmp_path / "s")
    options = (*TINY, "--ray-address", hosts.cluster, "--uds", uds)
    transport = httpx.HTTPTransport(uds=uds, limits=httpx.Limits(max_connections=2 * NUM_STREAMS))
    with (
        LiveServer(model, *options, env=hosts.environment, prefix=hosts.on(0)) as server,
        httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        server.wait_for(lambda: Path(uds).exists())
        server.wait_for(lambda: client.get("/ping").status_code == 200, 180)
        assert ask(client) == expected
        assert [sum("rank_entry" in command for command in hosts.processes(index).values()) for index in range(2)] == [0, 3]
        family = descendants(server.process.pid)
        last, took_s = streams_that_end(client, lambda: hosts.lose(1))
        (cause,) = {found for event in last for found in re.findall(r"rank \d was lost with its host .* for 3 s", event)}
        assert cause.endswith(f" was lost with its host {hosts.addresses[1]}, which has not answered for 3 s")
        assert all(cause in event for event in last)
        assert took_s < 30
        ping = client.get("/ping")
        assert (ping.status_code, cause in ping.text) == (503, True)
        assert server.process.wait(60) == 1
        assert cause in server.log().splitlines()[-1]
        assert f"engine rank 1 on {hosts.addresses[1]}" in server.log()
        wait_until(lambda: not any(is_running(pid) for pid in family))
        wait_until(lambda: not any("RankHost" in command for command in hosts.processes(0).values()))
