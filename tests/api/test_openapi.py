"""The OpenAPI document: valid, whole, and true of what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_server import ApiServer
from fake_engine import LABELS, VECTORS
from openapi_spec_validator import validate
from pydantic import BaseModel

from headway.server.api.auth import OPEN_PATHS
from headway.server.api.openapi import document
from headway.server.api.protocol import answers, anthropic_answers, pooled_answers
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.table import ROUTES

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
BODIES = list(dict.fromkeys(body for route in ROUTES for body in route.docs.bodies))


@pytest.mark.parametrize("has_key", [True, False])
def test_it_is_valid_openapi(has_key: bool) -> None:
    validate(document(ROUTES, has_key))  # type: ignore[arg-type]


def test_it_tells_of_every_route_and_what_it_answers() -> None:
    paths = document(ROUTES, True)["paths"]
    assert sum(len(operations) for operations in paths.values()) == sum(len(route.methods.split()) for route in ROUTES)
    names = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert len(set(names)) == len(names)
    for route in ROUTES:
        assert route.docs.answer or route.docs.answer_types, f"{route.path} does not say what it answers"
        in_path = {parameter.name for parameter in route.docs.parameters if parameter.place == "path"}
        assert all(f"{{{name}" in route.path for name in in_path)
        assert len(in_path) == route.path.count("{")


def test_the_key_is_asked_for_where_there_is_one() -> None:
    for path, operations in document(ROUTES, True)["paths"].items():
        for operation in operations.values():
            assert (path.rstrip("/") in OPEN_PATHS) == ("security" not in operation) == ("401" not in operation["responses"])
    assert "security" not in str(document(ROUTES, False))


@pytest.mark.parametrize("body", BODIES, ids=[body.__name__ for body in BODIES])
def test_examples_are_requests_that_this_server_understands(body: Any) -> None:
    examples = document(ROUTES, False)["components"]["schemas"][body.__name__]["examples"]
    assert examples
    for example in examples:
        parse_request(body, example)


ANSWERS: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    ("/v1/chat/completions", CHAT, answers.ChatCompletion),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2, "n": 2, "return_token_ids": True}, answers.ChatCompletion),
    ("/v1/chat/completions", CHAT | {"prompt_logprobs": 1, "stop": ["e"]}, answers.ChatCompletion),
    ("/v1/completions", {"prompt": "x"}, answers.Completion),
    ("/v1/completions", {"prompt": ["x", "y"], "logprobs": 2, "echo": True, "return_token_ids": True}, answers.Completion),
    ("/v1/completions", {"prompt": "xyz", "prompt_logprobs": 1, "stop_token_ids": [104]}, answers.Completion),
    ("/tokenize", {"prompt": "x"}, answers.Tokens),
    ("/tokenize", CHAT | {"return_token_strs": True}, answers.Tokens),
    ("/detokenize", {"tokens": [104]}, answers.Text),
    ("/v1/messages", CHAT | {"max_tokens": 8, "stop_sequences": ["e"]}, anthropic_answers.MessageAnswer),
    ("/v1/messages/count_tokens", CHAT, anthropic_answers.InputTokens),
    ("/v1/messages", CHAT, anthropic_answers.AnthropicErrorAnswer),
    ("/invocations", CHAT, answers.InvocationAnswer),
    ("/invocations", {"tokens": [104]}, answers.InvocationAnswer),
    ("/v1/completions", {"prompt": 1}, answers.ErrorAnswer),
]


ERRORS = (answers.ErrorAnswer, anthropic_answers.AnthropicErrorAnswer)


POOLED: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    ("/v1/embeddings", {"input": ["x", "y"]}, pooled_answers.Embeddings),
    ("/v1/embeddings", {"input": "x", "encoding_format": "base64"}, pooled_answers.Embeddings),
    ("/pooling", {"input": "x"}, pooled_answers.PooledTexts),
    ("/pooling", {"input": "xy", "task": "token_embed"}, pooled_answers.PooledTexts),
    ("/score", {"text_1": "x", "text_2": ["y", "z"]}, pooled_answers.Scores),
    ("/rerank", {"query": "x", "documents": ["y", "z"]}, pooled_answers.Ranking),
    ("/v2/rerank", {"query": "x", "documents": ["y", "z"], "return_documents": False}, pooled_answers.Ranking),
    ("/invocations", {"input": "x"}, answers.InvocationAnswer),
    ("/invocations", {"query": "x", "documents": ["y"]}, answers.InvocationAnswer),
]


@pytest.mark.parametrize(("path", "body", "answer"), POOLED)
def test_answers_about_texts_are_as_it_says(vectors: ApiServer, path: str, body: dict[str, Any], answer: type[BaseModel]) -> None:
    answer.model_validate_json(vectors.post(path, body).raise_for_status().content, strict=True)


def test_labels_are_as_it_says() -> None:
    with ApiServer(pooling=LABELS) as server:
        answer = server.post("/classify", {"input": "x"}).raise_for_status()
        pooled_answers.Classification.model_validate_json(answer.content, strict=True)


@pytest.fixture(scope="module")
def vectors() -> Iterator[ApiServer]:
    with ApiServer(pooling=VECTORS) as server:
        yield server


@pytest.mark.parametrize(("path", "body", "answer"), ANSWERS)
def test_answers_are_as_it_says(server: ApiServer, path: str, body: dict[str, Any], answer: type[BaseModel]) -> None:
    response = server.post(path, body)
    assert response.status_code == (400 if answer in ERRORS else 200)
    answer.model_validate_json(response.content, strict=True)


def test_answers_without_a_body_are_as_it_says() -> None:
    with ApiServer(lora={"enable_lora": True}, http={"enable_tokenizer_info_endpoint": True}) as server:
        for route in ROUTES:
            if "GET" in route.methods and "{" not in route.path and route.docs.answer:
                route.docs.answer.model_validate_json(server.client.get(route.path).raise_for_status().content, strict=True)
        answers.ModelCard.model_validate_json(server.client.get("/v1/models/tiny").content, strict=True)


def test_it_can_be_read_and_turned_off() -> None:
    with ApiServer(security={"api_key": ["a-key"]}, network={"root_path": "/models"}) as server:
        served = server.client.get("/openapi.json", headers={"authorization": "Bearer a-key"}).json()
        assert served["servers"] == [{"url": "/models"}]
        assert {**served, "servers": None} == {**document(ROUTES, True), "servers": None}
        assert server.client.get("/docs", headers={"authorization": "Bearer a-key"}).status_code == 200
    with ApiServer(http={"disable_fastapi_docs": True}) as quiet:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert quiet.client.get(path).status_code == 404
