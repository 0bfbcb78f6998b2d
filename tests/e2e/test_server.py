"""The server as its users meet it: started through the entrypoint, spoken to by the official client and by curl."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
QUESTION = [{"role": "user", "content": "What is the capital of England?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(
        command="entrypoint", env={"SM_VLLM_MODEL": "demo", "SM_VLLM_DTYPE": "float32", "SM_VLLM_MAX_MODEL_LEN": "4096"}
    ) as live:
        yield live.wait_ready()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_banner_says_what_where_and_how_to_try(server: LiveServer) -> None:
    log = server.log()
    for part in (
        "is ready after",
        "model    demo (llama, fp32",
        "device   cpu",
        f"address  http://127.0.0.1:{server.port}",
        "try      curl",
    ):
        assert part in log


def test_the_banner_s_curl_line_works(server: LiveServer) -> None:
    line = next(line for line in server.log().splitlines() if "  try      " in line)
    answer = subprocess.run(
        ["bash", "-c", line.split("  try      ", 1)[1].strip() + " -sS --fail"], capture_output=True, text=True, check=True
    )
    assert "London" in json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "The capital of England is London."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed_equals_chat_whole(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "demo", "messages": QUESTION, "temperature": 0.8, "seed": 7, "max_tokens": 40}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_conversation_of_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="demo", input="What is the capital of England?", temperature=0)
    assert first.output_text == "The capital of England is London."
    with client.responses.stream(model="demo", input="And of Italy?", previous_response_id=first.id, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text
    begun = client.responses.create(model="demo", input="Tell me a long story.", background=True, extra_body={"ignore_eos": True})
    assert client.responses.cancel(begun.id).status == "cancelled"


def test_completion_with_logprobs_echo_and_stop(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(model="demo", prompt=prompt, max_tokens=30, temperature=0, logprobs=2, echo=True, stop=["."])
    choice = answer.choices[0]
    assert choice.text.startswith(prompt)
    assert "." not in choice.text
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []).startswith(choice.text)
    scores = choice.logprobs.token_logprobs
    assert scores is not None
    assert scores[0] is None
    assert all(score <= 0 for score in scores[1:])


def test_n_choices_differ_and_repeat_under_a_seed(client: openai.OpenAI) -> None:
    def texts() -> list[str]:
        answer = client.completions.create(model="demo", prompt="My favourite colour is", n=3, temperature=1.2, seed=11, max_tokens=12)
        return [choice.text for choice in answer.choices]

    first = texts()
    assert len(set(first)) == 3
    assert texts() == first


def test_async_client(server: LiveServer) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
            stream = await client.chat.completions.create(model="demo", messages=QUESTION, temperature=0, stream=True)  # type: ignore[arg-type]
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert asyncio.run(ask()) == "The capital of England is London."


def test_invocations_and_the_other_routes(server: LiveServer) -> None:
    chat = httpx.post(f"{server.url}/invocations", json={"messages": QUESTION, "temperature": 0}, timeout=60)
    assert chat.json()["choices"][0]["message"]["content"] == "The capital of England is London."
    completion = httpx.post(f"{server.url}/invocations", json={"prompt": "Hello", "max_tokens": 3}, timeout=60)
    assert completion.json()["object"] == "text_completion"
    assert httpx.get(f"{server.url}/ping").status_code == httpx.get(f"{server.url}/health").status_code == 200
    assert [model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]] == ["demo"]
    assert server.metric("vllm:generation_tokens_total") > 0


def test_64_streams_at_once(server: LiveServer) -> None:
    async def one(client: openai.AsyncOpenAI, i: int) -> int:
        stream = await client.completions.create(
            model="demo",
            prompt=f"Item {i}:",
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        usage = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]
        return usage[0]

    async def main() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=300) as client:
            return await asyncio.gather(*(one(client, i) for i in range(64)))

    assert asyncio.run(main()) == [16] * 64


def test_200_clients_that_leave_free_everything(server: LiveServer) -> None:
    async def leave(client: httpx.AsyncClient, i: int) -> None:
        body = {"prompt": f"Count from {i}:", "max_tokens": 2000, "stream": i % 4 != 0, "ignore_eos": True}
        patience = httpx.Timeout(120, read=3 if i % 4 == 0 else 120)
        try:
            async with client.stream("POST", f"{server.url}/v1/completions", json=body, timeout=patience) as answer:
                async for _ in answer.aiter_raw():
                    return  # after the first bytes
        except httpx.ReadTimeout:
            pass

    async def main() -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(leave(client, i) for i in range(200)))

    asyncio.run(main())
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0)
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "Still there?", "max_tokens": 1}, timeout=60).status_code == 200


BAD: list[tuple[str, Any, int, str | None]] = [
    ("wrong JSON", b'{"prompt": "x",', 400, None),
    ("not an object", b"[1, 2]", 400, None),
    ("unknown model", {"model": "gpt-7", "prompt": "x"}, 404, "model"),
    ("prompt too long", {"prompt": "word " * 6000}, 400, "prompt"),
    ("negative max_tokens", {"prompt": "x", "max_tokens": -1}, 400, "max_tokens"),
    ("10,000 stop strings", {"prompt": "x", "stop": ["s"] * 10_000}, 400, "stop"),
    ("30 MB body", b'{"prompt": "' + b"x" * 30_000_000 + b'"}', 413, None),
    ("temperature out of range", {"prompt": "x", "temperature": 3}, 400, "temperature"),
    ("a field that does not exist", {"prompt": "x", "max_tokenz": 3}, 400, "max_tokenz"),
    ("a constraint that is none", {"prompt": "x", "guided_regex": "a("}, 400, "guided_regex"),
    ("token ids out of the vocabulary", {"prompt": [10**6]}, 400, "prompt"),
    ("no prompt", {"max_tokens": 3}, 400, "prompt"),
]


@pytest.mark.parametrize(("body", "status", "param"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_a_4xx_that_names_the_field(server: LiveServer, body: Any, status: int, param: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{server.url}/v1/completions", content=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or param in (error["param"] or "")
    assert "Traceback" not in error["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_engine_death_is_told_to_everybody() -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        engine = next(
            child for child in psutil.Process(server.process.pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
        )
        body = {"prompt": "Tell me everything:", "max_tokens": 3000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            os.kill(engine.pid, signal.SIGKILL)
            rest = [line for line in lines if line.startswith("data:")]
        assert "SIGKILL" in json.loads(rest[-2].removeprefix("data:"))["error"]["message"]
        assert rest[-1] == "data: [DONE]"
        for route in ("/ping", "/health"):
            answer = httpx.get(server.url + route)
            assert answer.status_code == 503
            assert "SIGKILL" in answer.text
        assert server.process.wait(timeout=60) == 1
        assert server.log().strip().splitlines()[-1].startswith("headway: error: the engine has stopped: the engine process was killed")


def test_a_killed_server_leaves_no_engine() -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert gone
        assert not alive


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no-such-dir/model"], "no-such-dir/model"),
        (["demo", "--max-model-len", "100000"], "above the model's own limit of 8192"),
        (["demo", "--kv-cache-memory-bytes", "1m"], "--max-model-len"),
        (["demo", "--device", "cuda"], "--device cuda"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_sentence(arguments: list[str], sentence: str) -> None:
    with LiveServer(*arguments, env={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}) as server:
        assert server.process.wait(timeout=60) == 2
        last = server.log().strip().splitlines()[-1]
        assert last.startswith("headway: error: ")
        assert sentence in last
        assert "Traceback" not in server.log()
