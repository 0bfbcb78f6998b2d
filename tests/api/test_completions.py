"""Completions: the forms of a prompt, echo, logprobs, streams; and how requests reach the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.text.generation import GenerationDefaults


def sampling_of(server: ApiServer, **body: Any) -> Any:
    answer = server.post("/v1/completions", {"prompt": "he", **body})
    assert answer.status_code == 200, answer.text
    return server.engine.requests[-1].sampling


def test_the_four_forms_of_a_prompt(server: ApiServer) -> None:
    ids = server.tokenizer.encode("hell", add_special_tokens=True)
    for prompt, num in (("hell", 1), (["hell", "o"], 2), (ids, 1), ([ids, ids, ids], 3)):
        server.engine.requests.clear()
        answer = server.post("/v1/completions", {"prompt": prompt, "n": 2}).json()
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
        assert [choice["index"] for choice in answer["choices"]] == list(range(2 * num))
        assert [choice["text"] for choice in answer["choices"]] == ["hello world"] * 2 * num
        assert answer["usage"]["prompt_tokens"] == sum(len(r.prompt_token_ids) for r in server.engine.requests[::2])
        assert server.engine.requests[0].prompt_token_ids == ids


def test_echo_and_logprobs(server: ApiServer) -> None:
    with server.openai() as client:
        answer = client.completions.create(model="tiny", prompt="hé", max_tokens=2, echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == "héhello"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["h", "é", "hell", "o"]
    assert choice.logprobs.text_offset == [0, 1, 2, 6]
    assert choice.logprobs.token_logprobs == [None, -1.5, -1.5, -1.5]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] is None
    assert sorted(choice.logprobs.top_logprobs[1].values()) == [-1.5, -0.5]
    assert choice.finish_reason == "length"


def test_echo_alone(server: ApiServer) -> None:
    answer = server.post("/v1/completions", {"prompt": "hell", "max_tokens": 0, "echo": True, "logprobs": 0}).json()
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("hell", "length")
    assert choice["logprobs"]["tokens"] == ["hell"]
    assert answer["usage"]["completion_tokens"] == 0


def test_streamed_echo_with_logprobs_adds_up(server: ApiServer) -> None:
    body = {"prompt": "hell", "max_tokens": 3, "echo": True, "logprobs": 1, "n": 2}
    whole = server.post("/v1/completions", body).json()
    streamed = server.post("/v1/completions", {**body, "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.split("\n\n") if line.startswith("data: {")]
    for index in range(2):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == whole["choices"][index]["text"] == "hellhello w"
        for key in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
            assert [item for choice in own for item in choice["logprobs"][key]] == whole["choices"][index]["logprobs"][key]


def test_prompt_logprobs(server: ApiServer) -> None:
    answer = server.post("/v1/completions", {"prompt": [104, 105], "max_tokens": 1, "prompt_logprobs": 1}).json()
    first, second = answer["choices"][0]["prompt_logprobs"]
    assert first is None
    assert second["105"] == {"logprob": -1.5, "rank": 2, "decoded_token": server.tokenizer.token_text(105)}
    assert second["0"]["rank"] == 1


def test_tokens_as_ids(server: ApiServer) -> None:
    body = {"prompt": "hell", "max_tokens": 1, "logprobs": 0, "return_tokens_as_token_ids": True, "return_token_ids": True}
    choice = server.post("/v1/completions", body).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{choice['token_ids'][0]}"]
    assert choice["prompt_token_ids"] == server.engine.requests[0].prompt_token_ids


def test_stop_strings_and_stop_tokens(server: ApiServer) -> None:
    choice = server.post("/v1/completions", {"prompt": "a", "stop": " w", "include_stop_str_in_output": True}).json()["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("hello w", " w")
    assert server.post("/v1/completions", {"prompt": "a", "stop": "world"}).json()["choices"][0]["text"] == "hello "
    sampling = sampling_of(server, stop_token_ids=[7], ignore_eos=True)
    assert sampling.stop_token_ids == (7,)
    assert sampling.eos_token_ids == ()


def test_tokens_behind_a_stop_string_are_not_counted(server: ApiServer) -> None:
    server.engine.tokens_per_delta = 5
    answer = server.post("/v1/completions", {"prompt": "a", "stop": "hello", "logprobs": 0}).json()
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["choices"][0]["logprobs"]["tokens"] == ["hell", "o"]


def test_special_tokens_show_only_when_asked(server: ApiServer) -> None:
    server.engine.text = "he<bos>llo"
    assert server.post("/v1/completions", {"prompt": "a"}).json()["choices"][0]["text"] == "hello"
    shown = server.post("/v1/completions", {"prompt": "a", "skip_special_tokens": False}).json()
    assert shown["choices"][0]["text"] == "he<bos>llo"


def test_sampling_defaults_and_limits(server: ApiServer) -> None:
    plain = sampling_of(server)
    assert (plain.max_tokens, plain.temperature, plain.top_p, plain.top_k, plain.seed) == (16, 1.0, 1.0, 0, None)
    assert plain.eos_token_ids == server.tokenizer.eos_token_ids
    assert sampling_of(server, max_tokens=10**9).max_tokens == 256 - 1
    assert sampling_of(server, temperature=0).is_greedy
    assert sampling_of(server, temperature=0.001).temperature == 0.01
    assert sampling_of(server, top_k=-1, seed=-1).top_k == 0
    assert sampling_of(server, logit_bias={"5": -100}).logit_bias == {5: -100.0}
    assert sampling_of(server, n=2, seed=2**63 - 1).seed == -(2**63)


def test_the_model_s_own_defaults() -> None:
    with ApiServer(defaults=GenerationDefaults(temperature=0.6, top_p=0.9, max_tokens=5, eos_token_ids=(7,))) as server:
        sampling = sampling_of(server, max_tokens=100, top_p=0.5)
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.6, 0.5, 5)
        assert 7 in sampling.eos_token_ids


def test_harmless_fields_pass(server: ApiServer) -> None:
    harmless = {
        "user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "guided_json": None, "best_of": 1, "suffix": None,
        "use_beam_search": False, "response_format": {"type": "text"}, "logit_bias": None, "stop": None, "max_tokens": None, "seed": None,
    }  # fmt: skip
    assert sampling_of(server, **harmless).max_tokens == 16


@pytest.mark.parametrize("model", [None, "", "tiny"])
def test_the_model_may_be_left_out(server: ApiServer, model: str | None) -> None:
    assert server.post("/v1/completions", {"prompt": "a", "model": model}).json()["model"] == "tiny"


def test_long_prompts_take_the_thread(server: ApiServer) -> None:
    server.served.set_ready(server.engine.info.__class__(**{**_fields(server.engine.info), "max_model_len": 10_000}))
    answer = server.post("/v1/completions", {"prompt": "hell" * 2000, "priority": -3, "cache_salt": "tenant"})
    assert answer.json()["usage"]["prompt_tokens"] == 2000
    assert (server.engine.requests[0].priority, server.engine.requests[0].cache_salt) == (-3, "tenant")


def _fields(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__struct_fields__}


def test_tokenize_and_detokenize(server: ApiServer) -> None:
    answer = server.post("/tokenize", {"prompt": "hello", "return_token_strs": True}).json()
    assert (answer["count"], answer["token_strs"], answer["max_model_len"]) == (2, ["hell", "o"], 256)
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": "hello"}
    chat = server.post("/tokenize", {"messages": [{"role": "user", "content": "hi"}]}).json()
    assert server.post("/detokenize", {"tokens": chat["tokens"]}).json() == {"prompt": "<user>hi|<assistant>"}
    assert server.post("/tokenize", {}).json()["error"]["param"] == "prompt"


def test_models(server: ApiServer) -> None:
    with server.openai() as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "headway"
    assert server.client.get("/v1/models").json()["data"][0]["max_model_len"] == 256
    missing = server.client.get("/v1/models/other/name")
    assert missing.status_code == 404
    assert "'tiny'" in missing.json()["error"]["message"]
