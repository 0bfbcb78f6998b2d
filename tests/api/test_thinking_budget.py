"""thinking_token_budget: what requests may say, and what the engine gets of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_server import TEMPLATE, ApiServer
from tokenizers import AddedToken

from headway.server.types import ThinkingBudget

THINKS = "{# <think></think> #}" + TEMPLATE
ASK: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer(template=THINKS, chat={"reasoning_parser": "qwen3"}) as server:
        server.tokenizer.backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
        yield server


def ask(server: ApiServer, **fields: Any) -> Any:
    return server.post("/v1/chat/completions", {"messages": ASK, **fields})


def test_the_engine_gets_the_budget_in_tokens(server: ApiServer) -> None:
    start, end = (server.tokenizer.token_to_id(mark) for mark in ("<think>", "</think>"))
    assert start is not None
    assert end is not None
    for num_tokens in (0, 5):
        assert ask(server, thinking_token_budget=num_tokens, n=2).status_code == 200
        sent = [request.sampling.thinking for request in server.engine.requests[-2:]]
        assert sent == [ThinkingBudget(num_tokens, (start,), end, (end,))] * 2


@pytest.mark.parametrize(
    "fields",
    [{}, {"thinking_token_budget": -1}, {"thinking_token_budget": 5, "chat_template_kwargs": {"enable_thinking": False}}],
)
def test_without_a_budget_or_without_reasoning_there_is_none(server: ApiServer, fields: dict[str, Any]) -> None:
    assert ask(server, **fields).status_code == 200
    assert server.engine.requests[-1].sampling.thinking is None


def test_what_can_not_be_done_is_refused(server: ApiServer) -> None:
    error = ask(server, thinking_token_budget=-2).json()["error"]
    assert error["param"] == "thinking_token_budget"
    completion = server.post("/v1/completions", {"prompt": "hi", "thinking_token_budget": 5})
    assert completion.status_code == 400
    for chat, reason in (({"reasoning_parser": "none"}, "--reasoning-parser"), ({"reasoning_parser": "qwen3"}, "tokens of their own")):
        with ApiServer(template=THINKS, chat=chat) as other:
            refused = ask(other, thinking_token_budget=5)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "thinking_token_budget"
            assert reason in refused.json()["error"]["message"]
