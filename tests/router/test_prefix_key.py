"""Which requests have the same key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.router.prefix_key import prefix_key

SYSTEM = {"role": "system", "content": "You are terse."}
HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}
MORE = {"role": "user", "content": "More"}


def key(body: dict[str, Any], most_bytes: int = 1024, **headers: str) -> bytes | None:
    return prefix_key(json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()}, most_bytes)


def test_every_turn_of_a_conversation_has_the_same_key() -> None:
    first = key({"model": "m", "messages": [SYSTEM, HELLO], "max_tokens": 5})
    assert first is not None
    assert key({"messages": [SYSTEM, HELLO, ANSWER, MORE], "stream": True, "model": "m"}) == first
    assert key({"model": "m", "messages": [SYSTEM, MORE]}) != first


@pytest.mark.parametrize("field", ["model", "cache_salt", "system", "instructions"])
def test_what_keeps_prefixes_apart_is_in_the_key(field: str) -> None:
    body = {"messages": [HELLO]}
    assert len({key(body), key({**body, field: "a"}), key({**body, field: "b"})}) == 3


def test_an_adapter_has_keys_of_its_own() -> None:
    assert key({"prompt": "a"}, x_amzn_sagemaker_adapter_identifier="poet") != key({"prompt": "a"})


@pytest.mark.parametrize("field", ["prompt", "input", "inputs"])
def test_only_the_beginning_of_a_prompt_counts(field: str) -> None:
    assert key({field: "x" * 100 + "one"}, 64) == key({field: "x" * 100 + "two"}, 64)
    assert key({field: "x" * 100 + "one"}, 1024) != key({field: "x" * 100 + "two"}, 1024)


def test_items_of_a_response_are_turns_and_texts_for_vectors_are_not() -> None:
    assert key({"input": [HELLO, ANSWER, MORE]}) == key({"input": [HELLO]})
    assert key({"input": ["a", "b"]}) != key({"input": ["a", "c"]})
    assert key({"prompt": [1, 2, 3]}) != key({"prompt": [1, 2, 4]})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"messages": []}', b'{"messages": 5}', b'{"messages": [5]}', b"\xff", b"[" * 9999]
)
def test_a_body_without_a_prompt_has_no_key(body: bytes) -> None:
    assert prefix_key(body, {}, 1024) is None


json_values = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps({"input": value, "messages": value}).encode()))
def test_no_body_breaks_it(body: bytes) -> None:
    found = prefix_key(body, {}, 64)
    assert found is None or found
