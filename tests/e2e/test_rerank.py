"""A cross-encoder as its users meet it: tokenizer, segments, engine and HTTP together, held against transformers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from live_server import LiveServer
from tiny_encoders import make_tiny_encoder, reference_model
from tiny_tokenizers import byte_level_backend
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from headway.server.source.files import ModelFiles

pytestmark = pytest.mark.e2e

QUERY = "who plays?"
DOCUMENTS = ["a man", "rain is expected", "he who plays the guitar", "x"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    made = make_tiny_encoder("bert", tmp_path_factory.mktemp("reranker"), is_classifier=True, vocab_size=264, num_labels=1)
    backend = byte_level_backend()
    special = [("<bos>", 261), ("<eos>", 262)]
    backend.post_processor = TemplateProcessing(single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=special)
    backend.save(str(made.path / "tokenizer.json"))
    return made


@pytest.fixture(scope="module")
def server(files: ModelFiles) -> Iterator[LiveServer]:
    with LiveServer(str(files.path), "--dtype", "float32") as live:
        yield live.wait_ready()


def post(server: LiveServer, path: str, **body: Any) -> Any:
    return httpx.post(server.url + path, json=body, timeout=60).raise_for_status().json()


def expected(files: ModelFiles, knows_segments: bool = True) -> list[float]:
    tokenizer = Tokenizer.from_file(str(files.path / "tokenizer.json"))
    model, scores = reference_model(files), []
    for document in DOCUMENTS:
        encoding = tokenizer.encode(QUERY, document)
        with torch.inference_mode():
            types = torch.tensor([encoding.type_ids]) * knows_segments
            logits = model(torch.tensor([encoding.ids]), token_type_ids=types).logits
        scores.append(float(logits.sigmoid()))
    return scores


def test_scores_are_those_of_transformers(server: LiveServer, files: ModelFiles) -> None:
    scores = expected(files)
    assert all(abs(a - b) > 1e-3 for a, b in itertools.combinations(scores, 2)), "scores that hardly differ prove nothing"
    assert all(abs(a - b) > 1e-3 for a, b in zip(scores, expected(files, knows_segments=False), strict=True)), "nor do segments"
    found = post(server, "/score", text_1=QUERY, text_2=DOCUMENTS)["data"]
    assert [entry["score"] for entry in found] == pytest.approx(scores, abs=1e-4)
    ranked = post(server, "/v1/rerank", query=QUERY, documents=DOCUMENTS)["results"]
    assert [entry["index"] for entry in ranked] == sorted(range(len(scores)), key=lambda i: -scores[i])


def test_a_cross_encoder_is_a_classifier_of_one_label(server: LiveServer) -> None:
    (entry,) = post(server, "/classify", input="a man")["data"]
    assert (entry["label"], entry["num_classes"]) == ("LABEL_0", 1)
    assert httpx.post(f"{server.url}/v1/embeddings", json={"input": "x"}, timeout=60).status_code == 400
