"""Options of a request that only the engine can prove, through a real server on a tiny model: none of them is ignored."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One request runs at a time, so that the order in which the others follow can be seen."""
    model = make_served_model(Path(tmp_path_factory.mktemp("model")))
    options = ["--max-model-len", "8192", "--dtype", "float32", "--max-num-seqs", "1", "--scheduling-policy", "priority"]
    processors = ["--logits-processors", "user_processors:ForceToken", "user_processors:never", "user_processors:wrong_shape"]
    path = {"PYTHONPATH": f"{SUPPORT}:{Path(__file__).parents[2] / 'src'}"}
    with LiveServer(model, *options, "--block-size", "16", *processors, env=path) as live:
        yield live.wait_ready()


def complete(server: LiveServer, **body: Any) -> httpx.Response:
    asked = {"prompt": "hello", "max_tokens": 8, "ignore_eos": True, "return_token_ids": True, "temperature": 0, **body}
    return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60)


def tokens(server: LiveServer, **body: Any) -> list[int]:
    answer = complete(server, **body)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def test_allowed_and_forbidden_tokens(server: LiveServer) -> None:
    allowed = tokens(server, allowed_token_ids=[65, 66, 67])
    assert len(allowed) == 8
    assert set(allowed) <= {65, 66, 67}
    word = httpx.post(f"{server.url}/detokenize", json={"tokens": [66, 67]}).json()["prompt"]
    only = {"allowed_token_ids": [66, 67], "logit_bias": {"66": 0, "67": 50}}
    assert tokens(server, **only) == [67] * 8
    assert tokens(server, **only, bad_words=[word[1] * 2]) == [67, 66] * 4, "the second of two is banned"


def test_what_leaves_no_token_is_the_requests_fault_and_harms_no_other(server: LiveServer) -> None:
    answer = complete(server, allowed_token_ids=[66], bad_words=["BB"])
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestError")
    assert "allowed_token_ids and bad_words leave no token" in answer.json()["error"]["message"]
    assert len(tokens(server)) == 8


def test_repetition(server: LiveServer) -> None:
    body = {"max_tokens": 50, "allowed_token_ids": [70], "repetition_detection": {"max_pattern_size": 2, "min_count": 6}}
    choice = complete(server, **body).json()["choices"][0]
    assert (choice["token_ids"], choice["finish_reason"]) == ([70] * 6, "repetition")


def test_logprobs_of_tokens(server: LiveServer) -> None:
    choice = complete(server, logprob_token_ids=[65, 66], return_tokens_as_token_ids=True, max_tokens=1).json()["choices"][0]
    assert {"token_id:65", "token_id:66"} <= set(choice["logprobs"]["top_logprobs"][0])


def test_logits_processors(server: LiveServer) -> None:
    free = tokens(server)
    assert tokens(server, vllm_xargs={"force_token": 99}) == [99] * 8
    never = {"qualname": "user_processors:never", "args": [free[0]]}
    assert tokens(server, logits_processors=[never])[0] != free[0]
    refused = complete(server, vllm_xargs={"force_token": "x"})
    assert (refused.status_code, "force_token must be a number" in refused.text) == (400, True)
    assert complete(server, logits_processors=["os:system"]).status_code == 400
    broken = complete(server, logits_processors=["user_processors:wrong_shape"])
    assert (broken.status_code, "it must return the logits" in broken.text) == (500, True)
    assert tokens(server) == free


def test_seeds_of_several_choices(server: LiveServer) -> None:
    def drawn(**body: Any) -> list[tuple[int, ...]]:
        return [tuple(choice["token_ids"]) for choice in complete(server, temperature=1.5, **body).json()["choices"]]

    first = drawn(n=3, seed=7)
    assert len(set(first)) == 3
    assert drawn(n=3, seed=7) == first
    assert drawn(n=1, seed=8) == first[1:2], "choice i draws with seed + i"
    assert drawn(n=3, seed=70) != first


def test_best_of_answers_with_the_likeliest(server: LiveServer) -> None:
    body = {"temperature": 2, "seed": 3, "logprobs": 0}

    def mean(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    every = sorted(complete(server, n=6, **body).json()["choices"], key=mean, reverse=True)
    best = complete(server, n=2, best_of=6, **body).json()
    assert [choice["token_ids"] for choice in best["choices"]] == [choice["token_ids"] for choice in every[:2]]
    assert best["usage"]["completion_tokens"] == 6 * 8


def test_beams_are_likelier_than_the_greedy_answer(server: LiveServer) -> None:
    def total(choice: dict[str, Any]) -> float:
        return float(sum(choice["logprobs"]["token_logprobs"]))

    greedy = complete(server, logprobs=0).json()["choices"][0]
    beams = complete(server, logprobs=0, n=4, use_beam_search=True).json()["choices"]
    assert [total(choice) for choice in beams] == sorted((total(choice) for choice in beams), reverse=True)
    assert total(beams[0]) >= total(greedy)
    assert complete(server, use_beam_search=True).json()["choices"][0]["token_ids"] == greedy["token_ids"], "one beam is greedy"


def test_a_cache_salt_keeps_others_from_what_was_cached(server: LiveServer) -> None:
    def cached(**body: Any) -> int:
        usage = complete(server, prompt="a prompt of more than three blocks of sixteen tokens each", **body).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(cache_salt="one") == 0
    assert cached(cache_salt="one") >= 32
    assert cached(cache_salt="two") == 0
    assert cached() == 0


def test_the_lowest_priority_value_goes_first(server: LiveServer) -> None:
    """In the order of the server's own log: the clients' threads may run in another."""

    def ask(priority: int) -> None:
        asked = {"prompt": "hello", "max_tokens": 2, "priority": priority}
        assert httpx.post(f"{server.url}/v1/completions?nth={priority}", json=asked, timeout=60).status_code == 200

    long = {"prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "priority": -100, "stream": True}
    with ThreadPoolExecutor(4) as clients, httpx.stream("POST", f"{server.url}/v1/completions", json=long, timeout=60):
        server.wait_for(lambda: server.metric("vllm:num_requests_running") == 1)
        for position, priority in enumerate((3, 2, 1, 0)):
            clients.submit(ask, priority)
            server.wait_for(lambda wanted=position + 1: server.metric("vllm:num_requests_waiting") == wanted)
        # The one that ran leaves, and the others go in their order.
    server.wait_for(lambda: len(_ended(server)) == 4)
    assert _ended(server) == ["0", "1", "2", "3"]


def _ended(server: LiveServer) -> list[str]:
    return re.findall(r"nth=(\d) HTTP", server.log())


@pytest.mark.alone
def test_a_client_that_leaves_ends_its_beam_search(server: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": "hello", "max_tokens": 400, "ignore_eos": True, "n": 8, "use_beam_search": True},
            timeout=httpx.Timeout(60, read=0.3),
        )
    started = time.monotonic()
    server.wait_for(lambda: server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0)
    assert time.monotonic() - started < 5
    assert len(tokens(server)) == 8
