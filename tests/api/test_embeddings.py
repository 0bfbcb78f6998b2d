"""/v1/embeddings and /pooling over a fake engine: forms of input and output, limits, and one request that harms no other."""

from __future__ import annotations

import base64
import json
import math
import struct
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import openai
import pytest
from api_server import ApiServer
from fake_engine import LABELS, VECTORS

from headway.server.types import FinishReason, PoolingInfo, SleepState

TEXTS = ["hello", "world"]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer(pooling=VECTORS) as running:
        yield running


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    shared.engine.texts.clear()
    return shared


def embed(server: ApiServer, **body: Any) -> httpx.Response:
    return server.post("/v1/embeddings", {"input": "hello", **body})


def refused(answer: httpx.Response, param: str | None = None) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].endswith((".", "?"))
    return str(error["message"])


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("hi", [[104, 105]]),
        (["hi", "o"], [[104, 105], [111]]),
        ([104, 105], [[104, 105]]),
        ([[104], [105, 1]], [[104], [105, 1]]),
    ],
)
def test_each_form_of_input_is_read(server: ApiServer, given: Any, ids: list[list[int]]) -> None:
    answer = embed(server, input=given).json()
    assert [text.prompt_token_ids for text in server.engine.texts] == ids
    assert [entry["index"] for entry in answer["data"]] == list(range(len(ids)))
    assert answer["object"] == "list"
    assert answer["model"] == "tiny"
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == sum(map(len, ids))


def test_a_priority_reaches_the_queue(server: ApiServer) -> None:
    assert embed(server, input=["hi", "o"], priority=-3).status_code == 200
    assert [text.priority for text in server.engine.texts] == [-3, -3]


def test_the_official_client_gets_the_same_in_both_formats(server: ApiServer) -> None:
    client = server.openai()
    by_default, as_float = (client.embeddings.create(model="tiny", input=TEXTS, **asked) for asked in ({}, {"encoding_format": "float"}))
    assert [entry.embedding for entry in by_default.data] == [entry.embedding for entry in as_float.data]
    assert math.isclose(sum(x * x for x in as_float.data[0].embedding), 1, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "endianness", "form"),
    [("float32", "native", "<f"), ("float32", "big", ">f"), ("float16", "little", "<e"), ("float16", "big", ">e")],
)
def test_base64_holds_the_numbers_as_asked(server: ApiServer, dtype: str, endianness: str, form: str) -> None:
    plain = embed(server).json()["data"][0]["embedding"]
    text = embed(server, encoding_format="base64", embed_dtype=dtype, endianness=endianness).json()["data"][0]["embedding"]
    numbers = [number for (number,) in struct.iter_unpack(form, base64.b64decode(text))]
    assert numbers == pytest.approx(plain, abs=1e-3)


def test_bfloat16_is_rounded_to_the_nearest(server: ApiServer) -> None:
    plain = embed(server).json()["data"][0]["embedding"]
    data = base64.b64decode(embed(server, encoding_format="base64", embed_dtype="bfloat16").json()["data"][0]["embedding"])
    numbers = [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]
    assert numbers == pytest.approx(plain, rel=2**-8)


@pytest.mark.parametrize("body", [{"embed_dtype": "float16"}, {"endianness": "big"}])
def test_what_base64_alone_has_is_refused_for_numbers(server: ApiServer, body: dict[str, str]) -> None:
    assert "base64" in refused(embed(server, **body), next(iter(body)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": [5000]}, "input"),
        ({"input": [-1]}, "input"),
        ({"messages": [{"role": "user", "content": "x"}]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 2}, "dimensions"),
        ({"truncate_prompt_tokens": 1000}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"encoding_format": "bytes"}, "encoding_format"),
        ({"dimension": 4}, "dimension"),
        ({"input": "\ud800"}, None),
    ],
)
def test_what_can_not_be_done_names_the_field(server: ApiServer, body: dict[str, Any], param: str | None) -> None:
    refused(server.client.post("/v1/embeddings", content=json.dumps({"input": "hello", **body}), headers=JSON), param)
    assert server.engine.texts == []


def test_a_long_text_is_refused_unless_it_is_cut(server: ApiServer) -> None:
    text = "a" * 300
    assert "300 tokens; this model takes 256" in refused(embed(server, input=["b", text]), "input.1")
    for asked, length in ((-1, 256), (10, 10)):
        assert embed(server, input=text, truncate_prompt_tokens=asked).status_code == 200
        assert len(server.engine.texts[-1].prompt_token_ids) == length


@pytest.mark.parametrize("given", ["abc", [97, 98, 99]])
def test_the_side_that_is_cut_can_be_chosen(server: ApiServer, given: Any) -> None:
    for side, ids in (("right", [97, 98]), ("left", [98, 99])):
        embed(server, input=given, truncate_prompt_tokens=2, truncation_side=side)
        assert server.engine.texts[-1].prompt_token_ids == ids


def test_a_hopelessly_long_text_is_refused_by_its_beginning(server: ApiServer) -> None:
    assert "more than" in refused(embed(server, input="a" * 100_000), "input")


def test_a_chat_is_rendered(server: ApiServer) -> None:
    answer = server.post("/v1/embeddings", {"messages": [{"role": "user", "content": "hi"}]})
    assert answer.status_code == 200, answer.text
    assert server.tokenizer.decode(server.engine.texts[-1].prompt_token_ids) == "<user>hi"


def test_dimensions_are_for_models_that_allow_them() -> None:
    with ApiServer(pooling=PoolingInfo(("embed",), 4, matryoshka=(2, 4))) as server:
        assert len(embed(server, dimensions=2).json()["data"][0]["embedding"]) == 2
        assert embed(server, dimensions=4).status_code == 200
        assert "2, 4" in refused(embed(server, dimensions=3), "dimensions")
    with ApiServer(pooling=PoolingInfo(("embed",), 4, matryoshka=())) as server:
        assert len(embed(server, dimensions=3).json()["data"][0]["embedding"]) == 3
        assert "1 to 4" in refused(embed(server, dimensions=5), "dimensions")


def test_activation_is_the_request_s_choice(server: ApiServer) -> None:
    assert embed(server, use_activation=False, input="hh").json()["data"][0]["embedding"] == [2.0, 0.0, 0.0, 0.0]


def test_pooling_gives_a_vector_a_token(server: ApiServer) -> None:
    answer = server.post("/pooling", {"input": "hi", "task": "token_embed"}).json()
    assert answer["data"] == [{"index": 0, "object": "pooling", "data": [[1, 0, 0, 0], [0, 1, 0, 0]]}]
    whole = server.post("/pooling", {"input": "hi"}).json()["data"][0]["data"]
    assert whole == embed(server, input="hi").json()["data"][0]["embedding"]


def test_what_the_model_does_not_do_is_told(server: ApiServer) -> None:
    for path, body in (("/classify", {"input": "x"}), ("/pooling", {"input": "x", "task": "classify"})):
        assert "vectors of texts (/v1/embeddings" in refused(server.post(path, body))
    for path, body in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})):
        assert "generates no text" in refused(server.post(path, body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/pooling", {"input": "x"}),
        ("/score", {"text_1": "x", "text_2": "x"}),
        ("/rerank", {"query": "x", "documents": "x"}),
    ],
)
def test_another_name_is_no_model(server: ApiServer, path: str, body: dict[str, Any]) -> None:
    assert server.post(path, {**body, "model": "other"}).status_code == 404
    assert server.post(path, {**body, "model": "tiny"}).status_code == 200


def test_a_generating_model_says_how_vectors_can_be_had() -> None:
    with ApiServer() as server:
        assert "--runner pooling" in refused(embed(server))
        assert server.engine.texts == []


def test_invocations_tell_it_by_the_body(server: ApiServer) -> None:
    assert server.post("/invocations", {"input": "x"}).json()["data"][0]["object"] == "embedding"
    assert server.post("/invocations", {"input": "x", "task": "token_embed"}).json()["data"][0]["object"] == "pooling"
    lines = server.client.post(
        "/invocations", content=b'{"input": "x"}\n{"input": []}\n', headers={"content-type": "application/jsonlines"}
    )
    first, second = map(msgspec.json.decode, lines.content.splitlines())
    assert first["object"] == "list"
    assert second["error"]["param"] == "input"


def test_many_texts_are_admitted_together_or_not_at_all() -> None:
    with ApiServer(pooling=VECTORS) as server:
        answer = embed(server, input=["x"] * 2048)
        assert len(answer.json()["data"]) == 2048
        server.engine.max_open = 2047
        full = embed(server, input=["x"] * 2048)
        assert full.status_code == 503
        assert full.headers["retry-after"] == "3"
        assert len(server.engine.texts) == 2048
        assert "--max-pooling-inputs" in refused(embed(server, input=["x"] * 2049), "input")


def test_a_text_that_fails_fails_its_request_alone() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.engine.fail_after = 0
        answer = embed(server, input=["x", "y", "z"])
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "something broke"
        assert server.engine.open_ids == set()
        assert len(server.engine.aborted_ids) == 2
        server.engine.fail_after = None
        assert embed(server).status_code == 200


def test_a_client_that_leaves_ends_the_work() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.on_loop(server.engine.gate.clear)
        server.leave("/v1/embeddings", {"input": ["x", "y"]}, lambda: len(server.engine.open_ids) == 2)
        server.wait_for(lambda: len(server.engine.aborted_ids) == 2)
        server.wait_for(lambda: server.engine.open_ids == set())


def test_the_time_limit_ends_the_work() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.on_loop(server.engine.gate.clear)
        answer = embed(server, input=["x", "y"], timeout=1.0)
        assert answer.status_code == 504
        assert len(server.engine.aborted_ids) == 2


def test_what_the_server_does_is_told_as_for_generation() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.engine.queue_timed_out = True
        assert embed(server).status_code == 503
        server.engine.queue_timed_out = False
        server.engine.sleep_state = SleepState(1, ("weights", "kv_cache"))
        assert "asleep" in embed(server).json()["error"]["message"]
        server.engine.sleep_state = SleepState()
        server.on_loop(server.drain.begin)
        server.wait_for(lambda: server.drain.is_draining)
        assert embed(server).status_code == 503


def test_a_death_ends_open_requests_with_the_cause() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.on_loop(server.engine.gate.clear)
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(embed(server)))
        waiting.start()
        server.wait_for(lambda: len(server.engine.open_ids) == 1)
        server.on_loop(lambda: server.engine.die("the device is gone"))
        waiting.join(60)
        assert answers[0].status_code == 503
        assert "the device is gone" in answers[0].text


def test_metrics_count_texts_and_tokens() -> None:
    with ApiServer(pooling=VECTORS, logs={"enable_log_requests": True}) as server:
        embed(server, input=["abc", "de"])
        text = server.client.get("/metrics").text
    labels = 'engine="0",model_name="tiny"'
    assert f"vllm:prompt_tokens_total{{{labels}}} 5.0" in text
    assert f'vllm:request_success_total{{engine="0",finished_reason="{FinishReason.STOP}",model_name="tiny"}} 2.0' in text
    assert f"vllm:e2e_request_latency_seconds_count{{{labels}}} 2.0" in text
    assert f"vllm:request_prompt_tokens_sum{{{labels}}} 5.0" in text


def test_the_key_is_asked_for_and_the_gate_stands_before_the_body() -> None:
    with ApiServer(pooling=VECTORS, security={"api_key": ["a-key"]}) as server:
        for path in ("/v1/embeddings", "/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/classify"):
            assert server.post(path, {}).status_code == 401
        server.engine.max_open = 0
        answer = server.client.post("/v1/embeddings", content=b"no JSON", headers={"authorization": "Bearer a-key"})
        assert answer.status_code == 503


def test_the_official_client_raises_what_fits() -> None:
    with ApiServer(pooling=LABELS) as server, pytest.raises(openai.BadRequestError) as caught:
        server.openai().embeddings.create(model="tiny", input="x")
    assert "/classify" in str(caught.value)
