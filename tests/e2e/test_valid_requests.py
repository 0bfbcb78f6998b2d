"""Random requests that the documentation allows, 8 at a time: `make valid NUM=2000`, and 150 with every test run.

Every stream is well formed and ends once, every whole answer is what was asked for, nothing is a 5xx, and nothing stays behind.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from event_readers import standard
from live_server import LiveServer
from tiny_encoders import make_tiny_encoder
from tiny_tokenizers import byte_level_backend
from valid_requests import EMBEDDING, GENERATING, LABELLING, Asked

from headway.server.bench.stub_model import write_stub_model

pytestmark = pytest.mark.e2e

NUM = int(os.environ.get("VALID_REQUESTS_NUM", "150"))
SEED = int(os.environ.get("VALID_REQUESTS_SEED", "1"))
# So few blocks that sequences have to wait for each other, and are preempted.
GENERATOR = "--load-format dummy --max-model-len 1024 --num-gpu-blocks-override 72 --block-size 16 --max-num-batched-tokens 64"
PARSERS = "--tool-call-parser hermes --scheduling-policy priority"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LiveServer]]:
    """A generator, an encoder, and a classifier of one label, which scores."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("generator", "encoder", "classifier")}
    write_stub_model(folders["generator"])
    for name, is_classifier in (("encoder", False), ("classifier", True)):
        changes = {"num_labels": 1} if is_classifier else {}
        make_tiny_encoder("bert", folders[name], is_classifier=is_classifier, vocab_size=264, **changes)
        byte_level_backend().save(str(folders[name] / "tokenizer.json"))
        (folders[name] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}")
    with ExitStack() as stack:
        live = {name: stack.enter_context(LiveServer(*_arguments(name, folder))) for name, folder in folders.items()}
        yield {name: server.wait_ready() for name, server in live.items()}


def _arguments(name: str, folder: Path) -> list[str]:
    return [str(folder), *(f"{GENERATOR} {PARSERS}".split() if name == "generator" else ["--dtype", "float32"])]


@pytest.mark.parametrize(
    ("name", "makers", "num"),
    [("generator", GENERATING, NUM), ("encoder", EMBEDDING, NUM // 3), ("classifier", LABELLING, NUM // 3)],
)
@pytest.mark.timeout(0)
def test_what_is_allowed_is_answered(servers: dict[str, LiveServer], name: str, makers: Sequence[Any], num: int) -> None:
    server = servers[name]
    rng = random.Random(SEED)
    asked = [rng.choice(makers)(rng) for _ in range(num)]
    counts: Counter[tuple[str, int]] = Counter()
    refused: Counter[str] = Counter()
    faults: list[str] = []
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:

        def send(one: Asked) -> tuple[httpx.Response, str | None]:
            answer = client.post(one.path, json=one.body)
            try:
                check(one, answer)
                if one.path == "/v1/responses" and answer.status_code == 200:
                    follow(client, one, answer)
            except Exception as fault:
                return answer, f"{type(fault).__name__}: {fault}"
            return answer, None

        for one, (answer, fault) in zip(asked, pool.map(send, asked), strict=True):
            status = answer.status_code
            if fault:
                faults.append(f"{one.path} {json.dumps(one.body)}\n  -> {status} {answer.text[-1500:]}\n  {fault}")
            counts[one.path, status] += 1
            if 400 <= status < 500:
                error = answer.json()["error"]
                refused[f"{one.path} {status} {error.get('param')}: {error['message'][:160]}"] += 1
    print("", *(f"{path} {status}: {count}" for (path, status), count in sorted(counts.items())), sep="\n  ")
    print("refused:", *(f"{count} x {what}" for what, count in refused.most_common(40)), sep="\n  ")
    assert not faults, f"{len(faults)} of {num}:\n" + "\n\n".join(faults[:12])
    assert sum(count for (_, status), count in counts.items() if status == 200) > 0.75 * num, "most of them are valid"
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0)
    server.wait_for(lambda: server.metric("vllm:kv_cache_usage_perc") == 0)
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert "Traceback" not in server.log()


def follow(client: httpx.Client, asked: Asked, answer: httpx.Response) -> None:
    """What clients do with a response that is kept, or is not."""
    whole = json.loads(standard([answer.content])[-1][1]).get("response") if asked.is_stream else answer.json()
    if whole is None or whole["status"] == "failed":
        return
    path = f"/v1/responses/{whole['id']}"
    body = asked.body
    found = 200 if body.get("store", True) else 404
    assert client.get(path).status_code == found
    if not asked.is_stream and not body.get("background") and found == 200:
        assert client.get(path).json() == whole
    if body.get("background"):
        assert client.post(f"{path}/cancel").json()["status"] in ("cancelled", "completed", "incomplete", "failed")
    assert client.get(f"{path}/input_items").status_code == found
    if found == 200:
        after = client.post("/v1/responses", json={"input": "x", "previous_response_id": whole["id"], "max_output_tokens": 2})
        assert after.status_code in (200, 400), after.text  # it may be too long by now, or have been cancelled
        assert client.delete(path).status_code == 200
        assert client.get(path).status_code == 404


def check(asked: Asked, answer: httpx.Response) -> None:
    status = answer.status_code
    if status != 200:
        error = answer.json()["error"]
        assert error["message"]
        assert status < 500 or _is_justified(asked, status), "a 5xx"
        return
    if asked.is_stream:
        events = standard([answer.content])
        (_check_typed if asked.path in ("/v1/responses", "/v1/messages") else _check_chunks)(asked, events)
    else:
        _check_whole(asked, json.loads(answer.content))


def _is_justified(asked: Asked, status: int) -> bool:
    return status in (503, 507) or (status == 504 and "timeout" in asked.body)


def _check_error(asked: Asked, error: dict[str, Any]) -> None:
    code = error.get("code")
    assert isinstance(code, int), error
    assert code < 500 or _is_justified(asked, code), f"a 5xx in a stream: {error}"


def _check_chunks(asked: Asked, events: list[tuple[str, str]]) -> None:
    assert events[-1] == ("", "[DONE]")
    told = [json.loads(data) for name, data in events[:-1]]
    assert not any(name for name, _ in events)
    ends: Counter[int] = Counter()
    texts: Counter[int] = Counter()
    for at, chunk in enumerate(told):
        if "error" in chunk:
            assert at == len(told) - 1, "an error is the last"
            _check_error(asked, chunk["error"])
            return
        for choice in chunk["choices"]:
            index = choice["index"]
            assert not ends[index], "nothing comes behind a choice's end"
            texts[index] += 1
            ends[index] += choice["finish_reason"] is not None
    body = asked.body
    prompt = body.get("prompt", "")
    num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert sorted(ends) == sorted(texts) == list(range(num_prompts * body.get("n", 1)))
    assert set(ends.values()) == {1}
    if (body.get("stream_options") or {}).get("include_usage"):
        assert told[-1]["choices"] == []
        assert told[-1]["usage"]["total_tokens"] > 0


def _check_typed(asked: Asked, events: list[tuple[str, str]]) -> None:
    told = [json.loads(data) for name, data in events if name != "ping"]
    kinds = [event["type"] for event in told]
    assert kinds == [name for name, _ in events if name != "ping"]
    if asked.path == "/v1/messages":
        if kinds[-1] == "error":
            assert told[-1]["error"]["type"] in ("invalid_request_error", "overloaded_error") or "timeout" in asked.body, told[-1]
            return
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("message_stop") == kinds.count("message_delta") == 1
        begun = [event["index"] for event in told if event["type"] == "content_block_start"]
        assert begun == [event["index"] for event in told if event["type"] == "content_block_stop"] == list(range(len(begun)))
        return
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert kinds[:2] == ["response.created", "response.in_progress"]
    ends = [kind for kind in kinds if kind in ("response.completed", "response.incomplete", "response.failed", "error")]
    assert ends == kinds[-1:]
    if kinds[-1] == "response.failed":
        error = told[-1]["response"]["error"]
        assert error["code"] != "server_error" or "timeout" in asked.body, error
        return
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    assert added == [event["output_index"] for event in told if event["type"] == "response.output_item.done"] == list(range(len(added)))
    last = told[-1]["response"]
    assert [event["item"] for event in told if event["type"] == "response.output_item.done"] == last["output"]
    _check_whole(asked, last)


def _check_whole(asked: Asked, whole: dict[str, Any]) -> None:
    body = asked.body
    for text, is_whole in _texts(whole):
        if asked.schema is not None and is_whole:
            jsonschema.validate(json.loads(text), asked.schema)
    if "choices" in whole:
        prompt = body.get("prompt", "")
        num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        assert [choice["index"] for choice in whole["choices"]] == list(range(num_prompts * body.get("n", 1)))
        assert all(choice["finish_reason"] for choice in whole["choices"])
        usage = whole["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    if asked.path == "/v1/responses" and not body.get("background"):
        assert whole["status"] in ("completed", "incomplete")
    for call, is_whole in _calls(whole):
        if is_whole and body.get("tool_choice") not in (None, "auto", "none", {"type": "auto"}, {"type": "none"}):
            given = json.loads(call[1]) if isinstance(call[1], str) else call[1]
            jsonschema.validate(given, _schema_of(body["tools"], call[0]))


def _texts(whole: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each text of the answer, and whether it came to its own end."""
    for choice in whole.get("choices", ()):
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        yield text or "", choice["finish_reason"] == "stop" and choice.get("stop_reason") is None
    if whole.get("object") == "response":
        for item in whole["output"]:
            if item["type"] == "message":
                yield item["content"][0]["text"], whole["status"] == "completed"
    if whole.get("type") == "message":
        for block in whole["content"]:
            if block["type"] == "text":
                yield block["text"], whole["stop_reason"] == "end_turn"


def _calls(whole: dict[str, Any]) -> Iterator[tuple[tuple[str, Any], bool]]:
    for choice in whole.get("choices", ()):
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            yield (call["function"]["name"], call["function"]["arguments"]), choice["finish_reason"] in ("stop", "tool_calls")
    if whole.get("object") == "response":
        for item in whole["output"]:
            if item["type"] == "function_call":
                yield (item["name"], item["arguments"]), whole["status"] == "completed"
    if whole.get("type") == "message":
        for block in whole["content"]:
            if block["type"] == "tool_use":
                yield (block["name"], block["input"]), whole["stop_reason"] == "tool_use"


def _schema_of(tools: list[dict[str, Any]], name: str) -> Any:
    described = next(found for tool in tools if (found := tool.get("function", tool))["name"] == name)
    return described.get("parameters") or described.get("input_schema") or {}
