"""/score, /rerank and /classify over a fake engine, by a cross-encoder, by vectors, and by a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import ApiServer
from fake_engine import CROSS_ENCODER, LABELS, VECTORS
from tokenizers.processors import TemplateProcessing

DOCUMENTS = ["xyz", "abc", "axy"]  # of which abc answers "abc" best


@pytest.fixture(scope="module", params=["cross-encoder", "vectors"])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    with ApiServer(pooling=CROSS_ENCODER if request.param == "cross-encoder" else VECTORS) as running:
        if request.param == "cross-encoder":
            as_bert = TemplateProcessing(single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=_SPECIAL)
            running.tokenizer.backend.post_processor = as_bert
        yield running


_SPECIAL = [("<bos>", 261), ("<eos>", 262)]


def refused(answer: httpx.Response, param: str | None = None) -> str:
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")], ids=lambda names: names[1]
)
def test_scores_under_every_name(server: ApiServer, names: tuple[str, str]) -> None:
    body = {names[0]: "abc", names[1]: DOCUMENTS}
    for path in ("/score", "/v1/score", "/invocations"):
        answer = server.post(path, body).json()
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        scores = [entry["score"] for entry in answer["data"]]
        assert max(scores) == scores[1]
        assert {entry["object"] for entry in answer["data"]} == {"score"}
        assert answer["usage"]["total_tokens"] > 0


def test_as_many_against_as_many(server: ApiServer) -> None:
    pairs = server.post("/score", {"text_1": ["abc", "xyz"], "text_2": ["abc", "abc"]}).json()["data"]
    single = [server.post("/score", {"text_1": first, "text_2": "abc"}).json()["data"][0]["score"] for first in ("abc", "xyz")]
    assert [entry["score"] for entry in pairs] == pytest.approx(single)


def test_a_ranking_has_the_best_first(server: ApiServer) -> None:
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/invocations"):
        answer = server.post(path, {"query": "abc", "documents": DOCUMENTS}).json()
        found = answer["results"]
        assert found[0]["index"] == 1
        assert found[0]["document"] == {"text": "abc"}
        assert [entry["relevance_score"] for entry in found] == sorted((entry["relevance_score"] for entry in found), reverse=True)
        assert answer["id"].startswith("rerank-")
        assert answer["model"] == "tiny"


def test_a_ranking_can_be_short_and_without_documents(server: ApiServer) -> None:
    body = {"query": "abc", "documents": [{"text": text} for text in DOCUMENTS], "top_n": 1, "return_documents": False}
    (best,) = server.post("/rerank", body).json()["results"]
    assert best.keys() == {"index", "relevance_score"}
    assert len(server.post("/rerank", {**body, "top_n": 10}).json()["results"]) == 3


def test_no_line_ends_within_an_answer(server: ApiServer) -> None:
    answer = server.post("/rerank", {"query": "abc", "documents": ["a\u2028b"]})
    assert "\u2028" not in answer.text
    assert answer.json()["results"][0]["document"] == {"text": "a\u2028b"}


def test_documents_are_cut_as_asked(server: ApiServer) -> None:
    server.engine.texts.clear()
    uncut = server.post("/rerank", {"query": "abc", "documents": ["abcxxxxx"]}).json()["usage"]["total_tokens"]
    cut = server.post("/rerank", {"query": "abc", "documents": ["abcxxxxx"], "max_tokens_per_doc": 5}).json()["usage"]["total_tokens"]
    assert uncut - cut == 3


def test_what_is_too_long_is_refused_unless_it_is_cut(server: ApiServer) -> None:
    body: dict[str, Any] = {"query": "abc", "documents": ["ok", "x" * 300]}
    answer = server.post("/rerank", body)
    assert answer.status_code == 400
    assert "this model takes 256" in answer.json()["error"]["message"]
    assert server.post("/rerank", {**body, "truncate_prompt_tokens": -1}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"text_1": "a"}),
        ("/score", {"text_1": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b", "queries": "c", "documents": "d"}),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
        ("/score", {"text_1": "a", "text_2": []}),
        ("/score", {"text_1": "a", "text_2": [1]}),
        ("/rerank", {"query": "a"}),
        ("/rerank", {"query": "", "documents": ["b"]}),
        ("/rerank", {"query": "a", "documents": [{"image": "b"}]}),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}),
        ("/rerank", {"query": "a", "documents": ["b"] * 2049}),
        ("/rerank", {"query": "a", "documents": ["b"], "stream": True}),
    ],
)
def test_what_is_no_request_is_refused(server: ApiServer, path: str, body: dict[str, Any]) -> None:
    answer = server.post(path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].endswith(".")


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("/rerank", "query", "documents"),
        ("/score", "text_1", "text_2"),
        ("/score", "queries", "documents"),
        ("/score", "queries", "items"),
        ("/score", "data_1", "data_2"),
    ],
)
def test_an_error_names_the_field_that_the_request_has(server: ApiServer, path: str, first: str, second: str) -> None:
    long = server.post(path, {first: "a", second: ["b", "c " * 200]})
    assert refused(long, f"{second}.1").startswith(f"{second}.1 has ")
    assert refused(server.post(path, {first: "a", second: ["b"] * 2049}), second).startswith(f"{second} holds 2049 texts")
    if path == "/score":
        refused(server.post(path, {first: ["a", "b"], second: ["a", "b", "c"]}), first)


@pytest.mark.parametrize(("path", "body"), [("/score", {"text_1": "a", "text_2": [1]}), ("/rerank", {"query": "a", "documents": 1})])
def test_what_is_no_text_is_told_with_its_field(server: ApiServer, path: str, body: dict[str, Any]) -> None:
    error = server.post(path, body).json()["error"]
    assert error["message"].startswith(f"{error['param']} must be a text or a list of texts")


def test_a_cross_encoder_reads_both_texts_at_once() -> None:
    with ApiServer(pooling=CROSS_ENCODER) as server:
        server.tokenizer.backend.post_processor = TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=_SPECIAL
        )
        server.post("/score", {"text_1": "abcd", "text_2": "xy"})
        (text,) = server.engine.texts
        assert text.prompt_token_ids == [261, 97, 98, 99, 100, 262, 120, 121, 262]
        assert text.num_first_segment == 6
        server.post("/score", {"text_1": "abcd", "text_2": "xyz", "truncate_prompt_tokens": 8})
        # Both give way, the longer one stays the longer, and what the model wants around them stays.
        assert server.engine.texts[1].prompt_token_ids == [261, 97, 98, 99, 262, 120, 121, 262]


def test_vectors_are_made_once_for_a_text_in_many_pairs() -> None:
    with ApiServer(pooling=VECTORS) as server:
        server.post("/score", {"text_1": "abc", "text_2": DOCUMENTS})
        assert len(server.engine.texts) == 4
        assert {text.pooling.use_activation for text in server.engine.texts} == {True}
        assert "cosine" in refused(server.post("/score", {"text_1": "a", "text_2": "b", "use_activation": False}), "use_activation")


def test_labels() -> None:
    with ApiServer(pooling=LABELS) as server:
        answer = server.post("/classify", {"input": ["ab", "abcd"]}).json()
        assert answer["id"].startswith("classify-")
        assert answer["data"] == [
            {"index": 0, "label": "ugly", "probs": [0.0, 0.5, 1.0], "num_classes": 3},
            {"index": 1, "label": "ugly", "probs": [0.0, 0.25, 0.5], "num_classes": 3},
        ]
        assert server.post("/invocations", {"input": "ab"}).json()["data"] == answer["data"][:1]
        assert server.post("/pooling", {"input": "ab"}).json()["data"][0]["data"] == [0.0, 0.5, 1.0]
        assert "3 labels" in refused(server.post("/score", {"text_1": "a", "text_2": "b"}))
        assert "about vectors" in refused(server.post("/invocations", {"input": "a", "dimensions": 3}), "dimensions")
        assert "about vectors" in refused(server.post("/pooling", {"input": "a", "dimensions": 3}), "dimensions")
