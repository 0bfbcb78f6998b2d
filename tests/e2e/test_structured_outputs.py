"""Structured outputs of a real server whose model writes nonsense: with streams, several choices and API processes, and after attacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    model = make_served_model(tmp_path_factory.mktemp("model"))
    with LiveServer(model, "--tokenizer", model, "--api-server-count", "2", "--max-model-len", "2048", "--max-num-seqs", "16") as server:
        yield server.wait_ready()


def post(server: LiveServer, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 300, "temperature": 1.0, **body}, timeout=60)


def is_city(text: str) -> bool:
    value = json.loads(text)
    return value.keys() == {"city", "size"} and value["city"] in ("Rome", "Oslo") and 1 <= value["size"] <= 9


def test_choices_and_streams(server: LiveServer) -> None:
    whole = post(server, response_format=FORMAT, n=4, seed=1, ignore_eos=True)
    assert whole.status_code == 200, whole.text
    choices = whole.json()["choices"]
    assert all(choice["finish_reason"] == "stop" and is_city(choice["text"]) for choice in choices), choices
    texts = ["", "", "", ""]
    with httpx.stream(
        "POST",
        f"{server.url}/v1/completions",
        json={"prompt": "x", "max_tokens": 300, "response_format": FORMAT, "n": 4, "seed": 1, "ignore_eos": True, "stream": True},
        timeout=60,
    ) as streamed:
        for line in streamed.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in choices]


def test_attacks_leave_the_server_alive(server: LiveServer) -> None:
    chain = {
        "$defs": {str(i): {"properties": {"a": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(3000)} | {"3000": {}},
        "$ref": "#/$defs/0",
    }
    attacks: list[dict[str, Any]] = [
        {"structured_outputs": {"json": chain}},
        {"structured_outputs": {"regex": "(a{1000}){1000}"}},
        {"structured_outputs": {"grammar": 'start: start "a" | start start start | ""'}, "logit_bias": {str(ord("a")): 100}},
    ]
    for attack in attacks:
        assert post(server, **attack).status_code in (200, 400), attack
        answer = post(server, response_format=FORMAT)
        assert answer.status_code == 200, answer.text
        assert is_city(answer.json()["choices"][0]["text"])
