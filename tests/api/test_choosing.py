"""What a request says about how its tokens are chosen: it reaches the engine as meant, or is a 400 that names the field."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from api_server import ApiServer
from tiny_tokenizers import sentencepiece_tokenizer

from headway.server.api.serving.bad_words import bad_word_ids
from headway.server.types import FinishReason, ProcessorChoice, RepetitionRule, SamplingParams, TokenDelta

PATHS = {
    "/v1/completions": {"prompt": "he"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer() as server:
        assert server.engine.info is not None
        info = msgspec.structs.replace(server.engine.info, reads_extra_args=True, processor_names=("mine:a", "mine.b"))
        server.served.set_ready(info)
        yield server


def refusal(server: ApiServer, body: dict[str, Any], path: str = "/v1/completions") -> dict[str, Any]:
    num_before = len(server.engine.requests)
    answer = server.post(path, {**PATHS[path], **body})
    assert answer.status_code == 400, answer.text
    assert len(server.engine.requests) == num_before
    error: dict[str, Any] = answer.json()["error"]
    return error


def sampling_of(server: ApiServer, body: dict[str, Any], path: str = "/v1/completions") -> SamplingParams:
    answer = server.post(path, {**PATHS[path], **body})
    assert answer.status_code == 200, answer.text
    return server.engine.requests[-1].sampling


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"allowed_token_ids": [7, 3, 7]}, {"allowed_token_ids": (7, 3)}),
        ({"logprob_token_ids": [5, 9, 5]}, {"logprob_token_ids": (5, 9), "logprobs": 0}),
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 3}}, {"repetition": RepetitionRule(1, 4, 3)}),
        (
            {"repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}},
            {"repetition": RepetitionRule(2, 4, 3)},
        ),
        ({"repetition_detection": {"max_pattern_size": 0}}, {"repetition": None}),
        ({"vllm_xargs": {"a": 1, "b": [1.5, "x"], "c": True}}, {"extra_args": {"a": 1, "b": [1.5, "x"], "c": True}}),
        (
            {"logits_processors": ["mine.b", {"qualname": "mine:a", "args": [1], "kwargs": {"k": "v"}}, {"qualname": "mine:a"}]},
            {
                "logits_processors": (
                    ProcessorChoice("mine.b"),
                    ProcessorChoice("mine:a", [1], {"k": "v"}),
                    ProcessorChoice("mine:a", [], {}),
                )
            },
        ),
        ({"bad_words": ["hell"]}, {"bad_words": ((258,), (32, 258))}),
        ({"bad_words": [" w", "we"]}, {"bad_words": ((119,), (259,), (119, 101), (259, 101))}),
        ({"session_id": "abc", "spaces_between_special_tokens": True, "length_penalty": 1}, {"allowed_token_ids": None, "bad_words": ()}),
    ],
)
def test_what_reaches_the_engine(shared: ApiServer, path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    sampling = sampling_of(shared, body, path)
    assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids.0"),
        ({"allowed_token_ids": [1] * 70_000}, "allowed_token_ids"),
        ({"logprob_token_ids": [10**6]}, "logprob_token_ids"),
        ({"logprob_token_ids": [1] * 1025}, "logprob_token_ids"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"bad_words": ["a"] * 129}, "bad_words"),
        ({"bad_words": ["a" * 101]}, "bad_words.0"),
        ({"repetition_detection": {"max_pattern_size": 4}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 1}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 10**6, "min_count": 2}}, "repetition_detection.max_pattern_size"),
        ({"repetition_detection": {"max_pattern": 4}}, "repetition_detection.max_pattern"),
        ({"logits_processors": ["mine:a", "os:system"]}, "logits_processors.1"),
        ({"logits_processors": ["mine:a"] * 17}, "logits_processors"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 257}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"use_beam_search": True, "length_penalty": 1e6}, "length_penalty"),
        ({"use_beam_search": True, "stream": True}, "stream"),
        ({"use_beam_search": True, "top_p": 0.5}, "top_p"),
        ({"use_beam_search": True, "temperature": 0.7}, "temperature"),
        ({"use_beam_search": True, "stop": "x"}, "stop"),
        ({"use_beam_search": True, "allowed_token_ids": [1]}, "allowed_token_ids"),
    ],
)
def test_what_is_refused(shared: ApiServer, path: str, body: dict[str, Any], param: str) -> None:
    error = refusal(shared, body, path)
    assert error["param"] == param
    assert param.split(".")[0] in error["message"] or "search" in error["message"]


def test_processors_that_the_server_does_not_have() -> None:
    with ApiServer() as server:
        assert "--logits-processors" in refusal(server, {"vllm_xargs": {"a": 1}})["message"]
        assert refusal(server, {"logits_processors": ["a:b"]})["message"].endswith(
            "was not started with (--logits-processors); it has none."
        )
        assert sampling_of(server, {"vllm_xargs": {}, "logits_processors": []}).extra_args is None


def test_lists_of_many_answers_have_a_limit(shared: ApiServer) -> None:
    words = ["\U0001f600" * 90 + str(index) for index in range(128)]
    assert sampling_of(shared, {"n": 10, "bad_words": words, "max_tokens": 1}).bad_words
    assert refusal(shared, {"prompt": ["x"] * 100, "bad_words": words, "max_tokens": 1})["param"] == "bad_words"


@pytest.mark.parametrize(
    "body",
    [
        {"vllm_xargs": {"a": {"b": 1}}},
        {"vllm_xargs": {"a": [[1]]}},
        {"logits_processors": [{"qualname": "mine:a", "kwargs": {"k": {}}}]},
        {"logits_processors": [{"name": "mine:a"}]},
    ],
)
def test_what_can_t_be_sent_to_the_engine(shared: ApiServer, body: dict[str, Any]) -> None:
    assert refusal(shared, body)["param"].startswith(next(iter(body)))


def test_numbers_of_any_size_can_be_sent_to_the_engine(shared: ApiServer) -> None:
    body = {"vllm_xargs": {"a": 2**70}, "logits_processors": [{"qualname": "mine:a", "args": [-(2**70)]}]}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampling_of(shared, body)))["extra_args"] == {"a": 2.0**70}


def test_bad_words_of_a_tokenizer_that_writes_a_blank_first() -> None:
    """It has the same tokens with and without a blank, or one more: as the word is written at the beginning, it is banned once."""
    tokenizer = sentencepiece_tokenizer()
    the = tokenizer.encode("the", add_special_tokens=False)
    assert bad_word_ids(tokenizer, ["the"])[0] == tuple(the)
    assert all(ids[-len(the) :] == tuple(the) or len(ids) > 1 for ids in bad_word_ids(tokenizer, ["the"]))


def test_a_repetition_is_a_reason_to_end(server: ApiServer) -> None:
    def end(request: Any) -> Any:
        return TokenDelta(request.request_id, [104], finish_reason=FinishReason.REPETITION, stop_reason="repetition_detected")

    ends_with(server, end)
    choice = server.post("/v1/completions", {"prompt": "a"}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("h", "repetition", "repetition_detected")
    assert 'finished_reason="repetition",model_name="tiny"} 1.0' in server.client.get("/metrics").text
    with server.openai() as client:
        chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
        assert str(chat.choices[0].finish_reason) == "repetition"


def test_what_only_shows_on_the_way_is_the_clients_fault_all_the_same(server: ApiServer) -> None:
    def end(request: Any) -> Any:
        return TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error="Nothing is left.", is_request_fault=True)

    ends_with(server, end)
    answer = server.post("/v1/completions", {"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Nothing is left.")
    streamed = server.post("/v1/completions", {"prompt": "a", "stream": True}).text
    assert '"message":"Nothing is left."' in streamed
    assert '"code":400' in streamed


def ends_with(server: ApiServer, end: Any) -> None:
    """The engine ends each request with the delta that ``end`` makes for it."""

    class Stream:
        engine_index = 0

        def __init__(self, request: Any) -> None:
            self._deltas = [end(request)]

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> TokenDelta:
            await asyncio.sleep(0)
            if not self._deltas:
                raise StopAsyncIteration
            return self._deltas.pop()

        def take_nowait(self) -> None:
            return None

        def time_out(self, message: str) -> None:
            pass

        async def aclose(self) -> None:
            pass

    server.engine.generate = lambda requests: [Stream(request) for request in requests]  # type: ignore[method-assign]
