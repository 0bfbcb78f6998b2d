"""Options about chats, answers and what a request may ask for: each has its effect, and the request's own field where there is one."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from fake_engine import fake_info
from tiny_tokenizers import byte_level_backend

from headway import __version__
from headway.server.api.deps import Served
from headway.server.config.server import ServerConfig
from headway.server.source.files import ModelFiles

MESSAGES = [{"role": "user", "content": "hi"}]
FLAVOURED = "{{ flavour }}/{{ colour }}"


def chat(server: ApiServer, **body: Any) -> Any:
    return server.post("/v1/chat/completions", {"messages": MESSAGES, **body})


def prompt_of(server: ApiServer, **body: Any) -> str:
    answer = chat(server, **body)
    assert answer.status_code == 200, answer.text
    return server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids)


def events(server: ApiServer, path: str, **body: Any) -> list[dict[str, Any]]:
    text = server.post(path, {"stream": True, **body}).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize(("form", "prompt"), [("string", "text"), ("openai", "parts"), ("auto", "text")])
def test_content_format(form: str, prompt: str, tmp_path: Path) -> None:
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    template = "{{ 'text' if messages[0].content is string else 'parts' }}"
    config = ServerConfig.model_validate({"chat": {"chat_template": template, "chat_template_content_format": form}})
    served = Served(["m"])
    asyncio.run(served.load(config, ModelFiles("safetensors", tmp_path, None, "m"), tmp_path))
    served.set_ready(fake_info(256))
    assert served.model is not None
    assert served.model.chat_template.render(MESSAGES) == prompt


def test_a_request_s_template_is_refused_unless_it_is_trusted(server: ApiServer) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        answer = server.post(path, {"messages": MESSAGES, "chat_template": "x"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "chat_template"
        assert "--trust-request-chat-template" in answer.json()["error"]["message"]


def test_a_trusted_template_and_the_default_variables() -> None:
    options = {"trust_request_chat_template": True, "default_chat_template_kwargs": {"flavour": "sweet", "colour": "red"}}
    with ApiServer(chat=options) as server:
        assert prompt_of(server, chat_template=FLAVOURED) == "sweet/red"
        assert prompt_of(server, chat_template=FLAVOURED, chat_template_kwargs={"colour": "blue"}) == "sweet/blue"
        assert prompt_of(server).startswith("<user>hi"), "a request's template is that request's only"
        tokens = server.post("/tokenize", {"messages": MESSAGES, "chat_template": FLAVOURED}).json()["tokens"]
        assert server.tokenizer.decode(tokens) == "sweet/red"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% if %}", "is no valid Jinja"),
        ("{% for a in b %}" * 40 + "{% endfor %}" * 40, "chat_template can't be compiled"),
        ("{{ 'x' * 999999999 }}", "chat template was stopped"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "chat_template"),
    ],
)
def test_a_hostile_template_is_the_client_s_fault(template: str, sentence: str) -> None:
    with ApiServer(chat={"trust_request_chat_template": True}) as server:
        answer = chat(server, chat_template=template)
        assert answer.status_code == 400, answer.text
        assert sentence in answer.json()["error"]["message"]


def test_no_keep_alive_with_an_interval_of_0() -> None:
    with ApiServer(http={"sse_keep_alive_interval": 0}) as server:
        server.engine.gate.clear()
        with server.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            server.on_loop(server.engine.gate.set)
            assert "keep-alive" not in answer.read().decode()


@pytest.mark.parametrize(
    ("option", "field", "sizes"), [(1, None, [1] * 8), (3, None, [1, 3, 3, 1]), (3, 2, [1, 3, 3, 1]), (2, 5, [1, 5, 2])]
)
def test_stream_interval(option: int, field: int | None, sizes: list[int]) -> None:
    """The first token goes out at once; a request can only raise the interval."""
    with ApiServer(http={"stream_interval": option}) as server:
        server.engine.is_endless = True
        body = {"prompt": "x", "max_tokens": 8, "return_token_ids": True, "stream_interval": field}
        chunks = events(server, "/v1/completions", **body)
        assert [len(chunk["choices"][0]["token_ids"]) for chunk in chunks] == sizes
        whole = server.post("/v1/completions", body).json()["choices"][0]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]


def test_stream_interval_with_several_choices() -> None:
    with ApiServer(http={"stream_interval": 100}) as server:
        chunks = events(server, "/v1/completions", prompt="x", n=3)
        texts = ["".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == index) for index in range(3)]
        assert texts == ["hello world"] * 3


def test_tokens_as_token_ids() -> None:
    def tokens(**body: Any) -> list[str]:
        answer = server.post("/v1/completions", {"prompt": "x", "logprobs": 0, "max_tokens": 2, **body}).json()
        found: list[str] = answer["choices"][0]["logprobs"]["tokens"]
        return found

    with ApiServer(http={"return_tokens_as_token_ids": True}) as server:
        assert all(token.startswith("token_id:") for token in tokens())
        assert tokens(return_tokens_as_token_ids=False) == ["hell", "o"]


def test_metrics_of_a_request() -> None:
    with ApiServer(http={"enable_per_request_metrics": True}) as server:
        metrics = chat(server).json()["metrics"]
        assert metrics["time_to_first_token_ms"] > 0
        assert metrics["queue_time_ms"] >= 0
        assert metrics["generation_time_ms"] > 0
        assert metrics["tokens_per_second"] == pytest.approx(1000 / metrics["mean_itl_ms"], rel=0.05)
        assert chat(server, n=2).json()["metrics"] is None
        *_, last = events(server, "/v1/completions", prompt="x", stream_options={"include_usage": True})
        assert last["choices"] == []
        assert last["metrics"].keys() == metrics.keys()


def test_no_metrics_unless_asked_for(server: ApiServer) -> None:
    assert "metrics" not in chat(server).json()
    assert all("metrics" not in event for event in events(server, "/v1/completions", prompt="x", stream_options={"include_usage": True}))


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, f"headway-{__version__}-tp1-"),
        ({"fingerprint_mode": "hash"}, f"headway-{__version__}-"),
        ({"fingerprint_mode": "custom", "fingerprint_value": "blue"}, "blue"),
    ],
)
def test_fingerprint(options: dict[str, str], start: str) -> None:
    with ApiServer(http=options) as server:
        whole = chat(server).json()["system_fingerprint"]
        assert whole.startswith(start)
        assert server.post("/v1/completions", {"prompt": "x"}).json()["system_fingerprint"] == whole
        *earlier, last, usage = events(server, "/v1/chat/completions", messages=MESSAGES, stream_options={"include_usage": True})
        assert last["system_fingerprint"] == usage["system_fingerprint"] == whole
        assert all("system_fingerprint" not in event for event in earlier)


def test_the_fingerprint_changes_with_what_computes_the_answers() -> None:
    def fingerprint(**options: Any) -> str | None:
        with ApiServer(**options) as server:
            found: str | None = chat(server).json()["system_fingerprint"]
            return found

    assert fingerprint() == fingerprint(network={"port": 9999})
    assert fingerprint() != fingerprint(model={"model": "tiny", "revision": "other"})
    assert fingerprint(http={"fingerprint_mode": "none"}) is None


def test_tokenizer_info() -> None:
    with ApiServer() as server:
        assert server.client.get("/tokenizer_info").status_code == 404
    with ApiServer(http={"enable_tokenizer_info_endpoint": True}, security={"api_key": ["k"]}) as server:
        assert server.client.get("/tokenizer_info").status_code == 401
        info = server.client.get("/tokenizer_info", headers={"Authorization": "Bearer k"}).json()
        assert info["eos_token"] == "<eos>"
        assert info["chat_template"].startswith("{% for m in messages %}")


@pytest.mark.parametrize(
    ("limits", "body", "sentence"),
    [
        ({}, {"n": 129}, "n must be at most 128 (--max-n-sequences), got 129."),
        ({"max_n_sequences": 2}, {"n": 3}, "n must be at most 2 (--max-n-sequences), got 3."),
        ({"max_stop_strings": 1}, {"stop": ["a", "b"]}, "stop holds 2 strings; at most 1 (--max-stop-strings)."),
        ({"max_completion_prompts": 1}, {"prompt": ["a", "b"]}, "prompt holds 2 prompts; at most 1 (--max-completion-prompts)."),
        (
            {"max_completion_prompts": 4, "max_n_sequences": 4},
            {"prompt": ["a"] * 2, "n": 3},
            "2 prompts with n=3 make more than 4 answers.",
        ),
    ],
)
def test_limits_of_a_request(limits: dict[str, int], body: dict[str, Any], sentence: str) -> None:
    with ApiServer(limits=limits) as server:
        answer = server.post("/v1/completions", {"prompt": "x", **body})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == sentence
        assert not server.engine.requests


def test_limits_can_be_raised() -> None:
    with ApiServer(limits={"max_n_sequences": 200, "max_stop_strings": 20}) as server:
        answer = server.post("/v1/completions", {"prompt": "x", "n": 200, "stop": [f"s{i}" for i in range(20)]})
        assert len(answer.json()["choices"]) == 200


def test_any_model_name_with_its_check_off() -> None:
    with ApiServer() as server:
        assert chat(server, model="gpt-4o").status_code == 404
    with ApiServer(model={"model": "tiny", "skip_model_name_validation": True}) as server:
        assert chat(server, model="gpt-4o").json()["model"] == "tiny"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_template_of_a_request_does_not_hold_up_the_others(path: str) -> None:
    with ApiServer(chat={"trust_request_chat_template": True}) as server, ThreadPoolExecutor(1) as client:
        server.post(path, {"messages": MESSAGES, "chat_template": "x"})  # what is made for a first request is made now
        loops = "{% for i in range(40000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}x"
        slow = client.submit(server.post, path, {"messages": MESSAGES, "chat_template": loops})
        num_answers = 0
        while not slow.done():
            num_answers += server.client.get("/ping").status_code == 200
        assert slow.result().status_code == 200
    assert num_answers > 15
