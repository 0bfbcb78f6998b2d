"""A real embedding model as its users meet it, held against transformers and the recipe of sentence-transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from live_server import LiveServer
from minilm import minilm
from numpy.typing import NDArray

pytestmark = pytest.mark.e2e

TEXTS = [
    "A man is playing the guitar on a stage.",
    "Somebody plays a string instrument before an audience.",
    "The central bank raised interest rates by half a percent.",
    "Ein Mann spielt Gitarre.",
    "guitar",
    "The quick brown fox jumps over the lazy dog. " * 12,
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(str(minilm()), "--served-model-name", "minilm", "--dtype", "float32") as live:
        yield live.wait_ready()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    """As the model's card says: the mean of the last hidden states, normalised."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    model = transformers.AutoModel.from_pretrained(minilm(), dtype=torch.float32).eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    found: NDArray[np.float32] = vectors.numpy()
    return found


def embedded(client: openai.OpenAI, texts: list[str], **asked: str) -> NDArray[np.float32]:
    answer = client.embeddings.create(model="minilm", input=texts, **asked)  # type: ignore[arg-type]
    return np.array([entry.embedding for entry in answer.data], dtype=np.float32)


def test_vectors_are_those_of_transformers(client: openai.OpenAI, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(embedded(client, TEXTS), expected, atol=1e-4)


def test_both_formats_are_equal(client: openai.OpenAI) -> None:
    np.testing.assert_array_equal(embedded(client, TEXTS), embedded(client, TEXTS, encoding_format="float"))


def test_what_means_the_same_is_near(client: openai.OpenAI) -> None:
    vectors = embedded(client, TEXTS)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.5
    assert cosines[0, 1] > cosines[0, 2] + 0.3
    assert cosines[0, 4] > cosines[2, 4] + 0.2


def test_texts_beside_each_other_do_not_change_each_other(client: openai.OpenAI, expected: NDArray[np.float32]) -> None:
    def lone(i: int) -> NDArray[np.float32]:
        return embedded(client, [TEXTS[i]])[0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lone, [i % len(TEXTS) for i in range(48)]))
    for i, vector in enumerate(found):
        np.testing.assert_allclose(vector, expected[i % len(TEXTS)], atol=1e-4)


def test_ranking_by_vectors(server: LiveServer) -> None:
    body = {"query": "Who makes music?", "documents": TEXTS[:3], "top_n": 2}
    found = httpx.post(f"{server.url}/v2/rerank", json=body, timeout=60).raise_for_status().json()["results"]
    assert {entry["index"] for entry in found} == {0, 1}
    assert found[0]["relevance_score"] >= found[1]["relevance_score"]


def test_the_model_s_own_limit_is_kept(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="this model takes 256"):
        client.embeddings.create(model="minilm", input="word " * 300)
    cut = client.embeddings.create(model="minilm", input="word " * 300, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == 256


@pytest.mark.alone
def test_thousands_of_texts_do_not_hold_up_the_others(server: LiveServer, client: openai.OpenAI) -> None:
    def ping() -> float:
        started = time.monotonic()
        httpx.get(f"{server.url}/ping", timeout=60).raise_for_status()
        return time.monotonic() - started

    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(embedded, client, [f"text number {i}" for i in range(2048)])
        pings = []
        while not many.done():
            pings.append(ping())
        assert many.result().shape == (2048, 384)
    assert len(pings) >= 10, pings
    assert max(pings) < sum(pings) / 4, pings  # held up, one would be as long as all the texts take


def test_the_banner_s_example_works(server: LiveServer) -> None:
    line = next(line for line in server.log().splitlines() if "  try      " in line)
    assert "/v1/embeddings" in line
    body = json.loads(line.partition("-d '")[2].rstrip("'"))
    assert httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60).status_code == 200


def test_sagemaker_s_door_and_metrics(server: LiveServer) -> None:
    answer = httpx.post(f"{server.url}/invocations", json={"input": TEXTS[0]}, timeout=60).raise_for_status().json()
    assert len(answer["data"][0]["embedding"]) == 384
    assert server.metric("vllm:prompt_tokens_total") > 0
