"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import FailFast, Field

from headway.server.api.protocol.base import GenerationFields, shown_with
from headway.server.api.protocol.calls_schema import calls_schema
from headway.server.api.protocol.messages import Message, PromptFields
from headway.server.api.protocol.structured import json_schema_grammar
from headway.server.errors import RequestError
from headway.server.types import Grammar


class ChatCompletionRequest(PromptFields, GenerationFields):
    OPERATION = "chat"
    model_config = shown_with({"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 32})

    messages: Annotated[list[Message], Field(min_length=1), FailFast()]
    max_tokens: int | None = Field(None, ge=1, description="Older name of max_completion_tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Default: what remains of the context.")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=-1, description="-1: the whole vocabulary.")
    parallel_tool_calls: bool = Field(True, description="false: the answer has one call at most.")
    include_reasoning: bool = Field(True, description="false: the answer leaves the reasoning out.")
    thinking_token_budget: int | None = Field(None, ge=-1, lt=2**31, description="Tokens after which reasoning is ended; -1: none.")
    add_special_tokens: bool = Field(False, description="Chat templates write the special tokens themselves.")

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = GenerationFields.REFUSED | {
        "functions": (),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "verbosity": ("medium",),
        "best_of": (1,),
    }
    ADVICE: ClassVar[dict[str, str]] = GenerationFields.ADVICE | {
        "functions": "send tools instead",
        "function_call": "send tool_choice instead",
    }

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs or self.logprob_token_ids else None

    @property
    def asked_max_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def asked_grammar(self) -> Grammar | None:
        """See StructuredFields. Where calls are a must, their schema is the constraint."""
        grammar = super().asked_grammar()
        choice = self.wanted_tools
        if grammar is not None and choice.mode != "none":
            hint = "send tool_choice none for an answer that it constrains" + ("" if choice.is_forced else ", required for calls")
            raise RequestError(f"{grammar.param} leaves no room for calls of tools: {hint}.", grammar.param)
        schema = calls_schema(self.tools, choice, is_parallel=self.parallel_tool_calls)
        return grammar if schema is None else json_schema_grammar(schema, "tools")

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", "top_logprobs")
