"""Completions with several prompts and choices: best_of, beams, truncation, usage, and the parts that OpenAI's shape wants."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.types import FinishReason


def complete(server: ApiServer, **body: Any) -> dict[str, Any]:
    answer = server.post("/v1/completions", {"prompt": "he", **body})
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def events(server: ApiServer, path: str = "/v1/completions", **body: Any) -> list[dict[str, Any]]:
    text = server.post(path, {"stream": True, **body}).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]


def test_best_of_answers_with_the_best_of_each_prompt(server: ApiServer) -> None:
    """The fourth and the second drawn are the likeliest per token; the longest text, with the highest sum, is not."""
    mean = {0: -3.0, 1: -1.0, 2: -2.0, 3: -0.5}
    server.engine.text = lambda request: "x" * (4 - request.sampling.seed % 10)
    server.engine.own_logprob = lambda request: mean[request.sampling.seed % 10]
    answer = complete(server, prompt=["a", "b"], n=2, best_of=4, seed=100)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "x"), (1, "xxx"), (2, "x"), (3, "xxx")]
    assert all(choice["logprobs"] is None for choice in answer["choices"]), "they were not asked for"
    num_drawn = 4 + 3 + 2 + 1
    assert answer["usage"]["completion_tokens"] == 2 * (num_drawn + 4), "what is thrown away was generated, too"
    assert answer["usage"]["prompt_tokens"] == 2
    assert len(server.engine.requests) == 8


def test_best_of_as_many_as_n_draws_no_logprobs_and_may_stream(server: ApiServer) -> None:
    complete(server, n=2, best_of=2)
    assert server.engine.requests[-1].sampling.logprobs is None
    assert events(server, prompt="a", n=2, best_of=2)


def test_beams_of_each_prompt(server: ApiServer) -> None:
    """The pretend engine finds token 0 likeliest, then 1, 2 ..: the best two of three tokens are 000 and one of 1 and two 0."""
    body = {"prompt": ["a", "hi"], "n": 2, "use_beam_search": True, "max_tokens": 3, "logprobs": 2, "return_token_ids": True}
    answer = complete(server, **body, temperature=0, echo=True)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for best, second, prompt in zip(answer["choices"][::2], answer["choices"][1::2], ("a", "hi"), strict=True):
        assert best["token_ids"] == [0, 0, 0]
        assert sorted(second["token_ids"]) == [0, 0, 1]
        assert best["finish_reason"] == "length"
        assert best["text"].startswith(prompt)
        assert best["logprobs"]["token_logprobs"][-3:] == [-0.5] * 3
        assert best["logprobs"]["token_logprobs"][0] is None
        assert [len(top) for top in best["logprobs"]["top_logprobs"][-3:]] == [2] * 3
    assert answer["usage"]["completion_tokens"] == 12
    assert server.engine.open_ids == set()


def test_beams_of_a_chat(server: ApiServer) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "n": 3, "use_beam_search": True, "max_tokens": 2, "return_token_ids": True}
    answer = server.post("/v1/chat/completions", body).json()
    assert answer["choices"][0]["token_ids"] == [0, 0]
    assert len({tuple(choice["token_ids"]) for choice in answer["choices"]}) == 3


def test_a_time_limit_ends_a_beam_search(server: ApiServer) -> None:
    server.engine.gate.clear()
    answer = server.post("/v1/completions", {"prompt": "a", "n": 2, "use_beam_search": True, "timeout": 0.05})
    assert answer.status_code == 504
    assert server.engine.open_ids == set()


def test_each_step_of_a_beam_search_has_what_the_request_has(server: ApiServer) -> None:
    complete(server, n=2, use_beam_search=True, max_tokens=3, priority=-4, cache_salt="tenant")
    assert len(server.engine.requests) == 1 + 2 + 2
    assert {(r.priority, r.cache_salt, r.sampling.max_tokens) for r in server.engine.requests} == {(-4, "tenant", 1)}


def test_a_beam_search_holds_its_adapter_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with ApiServer(lora={"enable_lora": True, "max_loras": 1, "lora_allowed_prefixes": [str(tmp_path)]}) as server:
        assert server.post("/adapters", {"name": "a", "src": str(tmp_path)}).status_code == 200
        answer = complete(server, model="a", n=2, use_beam_search=True, max_tokens=3)
        assert answer["model"] == "a"
        assert {request.adapter_id for request in server.engine.requests} == set(server.engine.adapters)
        assert len(server.engine.requests) == 5


def test_a_beam_search_that_breaks_or_finds_no_room_for_a_step(server: ApiServer) -> None:
    server.engine.fail_after = 0
    assert server.post("/v1/completions", {"prompt": "a", "n": 2, "use_beam_search": True}).status_code == 500
    server.engine.fail_after = None
    server.engine.max_open = 1
    answer = server.post("/v1/completions", {"prompt": "a", "n": 2, "use_beam_search": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert server.engine.open_ids == set()
    server.engine.max_open = None
    assert complete(server, max_tokens=0, echo=True, use_beam_search=True)["choices"][0]["text"] == "he"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, [3, 4, 5]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "left"}, [3, 4, 5]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, [1, 2, 3]),
        ({"truncate_prompt_tokens": 9}, [1, 2, 3, 4, 5]),
        ({"truncate_prompt_tokens": -1, "max_tokens": 252}, [2, 3, 4, 5]),
        ({"truncate_prompt_tokens": -1, "max_tokens": 10_000}, [5]),
        ({"truncate_prompt_tokens": -1}, [1, 2, 3, 4, 5]),
    ],
)
def test_truncated_token_ids(server: ApiServer, body: dict[str, Any], kept: list[int]) -> None:
    answer = complete(server, prompt=[1, 2, 3, 4, 5], return_token_ids=True, **body)
    assert answer["choices"][0]["prompt_token_ids"] == kept == server.engine.requests[-1].prompt_token_ids
    assert answer["usage"]["prompt_tokens"] == len(kept)


def test_truncated_texts(server: ApiServer) -> None:
    answer = complete(server, prompt="abcdef", truncate_prompt_tokens=2, echo=True, return_prompt_text=True, max_tokens=1)
    assert (answer["choices"][0]["text"], answer["choices"][0]["prompt_text"]) == ("efhell", "ef")
    begun = complete(server, prompt="<bos>abcdef", truncate_prompt_tokens=3, return_prompt_text=True)
    assert begun["choices"][0]["prompt_text"] == "<bos>ef", "a model needs its beginning-of-sequence token"
    cut = complete(server, prompt="x" * 50_000 + "end", truncate_prompt_tokens=3, return_prompt_text=True)
    assert cut["choices"][0]["prompt_text"] == "end"
    assert server.post("/v1/completions", {"prompt": "x" * 50_000}).status_code == 400
    chat = {"messages": [{"role": "user", "content": "x" * 300}], "truncate_prompt_tokens": 20, "return_prompt_text": True}
    answer = server.post("/v1/chat/completions", chat).json()
    assert answer["prompt_text"] == "x" * 8 + "|<assistant>"
    assert answer["usage"]["prompt_tokens"] == 20


def test_the_prompt_s_text(server: ApiServer) -> None:
    assert complete(server)["choices"][0]["prompt_text"] is None
    answer = complete(server, prompt=[[104, 261, 105]], n=2, return_prompt_text=True)
    assert [choice["prompt_text"] for choice in answer["choices"]] == ["h<bos>i"] * 2
    first, *others = events(server, prompt="he", return_prompt_text=True)
    assert first["choices"][0]["prompt_text"] == "he"
    assert all("prompt_text" not in event["choices"][0] for event in others)
    chat = {"messages": [{"role": "user", "content": "hi"}], "return_prompt_text": True}
    assert server.post("/v1/chat/completions", chat).json()["prompt_text"] == "<user>hi|<assistant>"
    first, second, *_ = events(server, "/v1/chat/completions", **chat)
    assert first["choices"][0]["prompt_text"] == "<user>hi|<assistant>"
    assert "prompt_text" not in second["choices"][0]


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("prompt", ["hello", ["hello", "hi"], [104, 105], [[104, 105], [104]]])
@pytest.mark.parametrize("n", [1, 2])
def test_echo_with_logprobs_as_evaluation_harnesses_read_it(server: ApiServer, max_tokens: int, prompt: Any, n: int) -> None:
    """lm_eval's local-completions: all four lists have an entry a token, prompt and answer; the first token has no logprob."""
    answer = complete(server, prompt=prompt, n=n, max_tokens=max_tokens, echo=True, logprobs=1, temperature=0, seed=1234)
    prompts = [r.prompt_token_ids for r in server.engine.requests]
    assert len(answer["choices"]) == len(prompts)
    for choice, ids in zip(answer["choices"], prompts, strict=True):
        logprobs = choice["logprobs"]
        assert {key: len(value) for key, value in logprobs.items()} == dict.fromkeys(
            ("text_offset", "token_logprobs", "tokens", "top_logprobs"), len(ids) + max_tokens
        )
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
            assert value in top.values()
        assert "".join(logprobs["tokens"]) == choice["text"]
        offsets = [0, *itertools.accumulate(len(token) for token in logprobs["tokens"][:-1])]
        assert logprobs["text_offset"] == offsets
        assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == max_tokens * len(prompts)


def test_every_key_is_there_in_every_choice(server: ApiServer) -> None:
    keys = {
        "index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_token_ids", "prompt_logprobs", "prompt_text",
    }  # fmt: skip
    for body in ({}, {"n": 2, "best_of": 3}, {"use_beam_search": True, "n": 2}, {"echo": True, "max_tokens": 0}):
        assert all(set(choice) == keys for choice in complete(server, **body)["choices"])
    asked = complete(server, logprobs=0, prompt_logprobs=0, return_token_ids=True, return_prompt_text=True, stop=" w")["choices"][0]
    assert all(value is not None for value in asked.values())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("options", [None, {}, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
def test_usage_of_streams(server: ApiServer, path: str, n: int, options: dict[str, bool] | None) -> None:
    asked = {"prompt": "he"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    got = events(server, path, **asked, n=n, **({} if options is None else {"stream_options": options}))
    choices = [event for event in got if event["choices"]]
    last = [event for event in got if not event["choices"]]
    whole = server.post(path, {**asked, "n": n}).json()["usage"]
    if not (options or {}).get("include_usage"):
        assert not last
        assert all("usage" not in event for event in got)
        return
    assert [event["usage"] for event in last] == [whole]
    assert last == got[-1:]
    if options == {"include_usage": True}:
        assert all("usage" not in event for event in choices)
        return
    counts = [event["usage"]["completion_tokens"] for event in choices]
    assert counts == sorted(counts)
    assert counts[-1] == whole["completion_tokens"]
    assert {event["usage"]["prompt_tokens"] for event in choices} == {whole["prompt_tokens"]}


def test_tokens_and_ids_of_streams_add_up(server: ApiServer) -> None:
    body = {"prompt": ["hell", "o"], "n": 2, "logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True, "max_tokens": 3}
    whole = complete(server, **body)["choices"]
    got = events(server, **body)
    for index, choice in enumerate(whole):
        own = [event["choices"][0] for event in got if event["choices"][0]["index"] == index]
        assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [token for piece in own for token in piece["token_ids"]] == choice["token_ids"]
        tokens = [token for piece in own for token in piece["logprobs"]["tokens"]]
        assert tokens == [f"token_id:{token}" for token in choice["token_ids"]] == choice["logprobs"]["tokens"]
        assert [piece["finish_reason"] for piece in own][-1] == FinishReason.LENGTH.value
