"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, WithJsonSchema

from headway.server.api.protocol.base import MAX_N, GenerationFields, shown_with
from headway.server.errors import RequestError

MAX_PROMPTS = 65536  # whatever --max-completion-prompts allows

Prompt = str | list[int]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _prompts(value: Any) -> list[Prompt]:
    """The four forms of OpenAI's prompt as one list of prompts."""
    if isinstance(value, str):
        prompts: list[Prompt] = [value]
    elif _is_ids(value) and value:
        prompts = [value]
    elif isinstance(value, list) and value and (all(isinstance(item, str) for item in value) or all(_is_ids(item) for item in value)):
        prompts = value
    else:
        raise ValueError("prompt must be a text, a list of texts, a list of token ids, or a list of such lists, and not be empty")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"prompt holds {len(prompts)} prompts; at most {MAX_PROMPTS} go into one request")
    return prompts


_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


class CompletionRequest(GenerationFields):
    OPERATION = "text_completion"
    model_config = shown_with({"prompt": "The capital of France is", "max_tokens": 8})

    prompt: Annotated[list[Prompt], PlainValidator(_prompts), WithJsonSchema(_SCHEMA)]
    max_tokens: int = Field(16, ge=0, description="0 only with echo: the prompt alone.")
    logprobs: int | None = Field(None, ge=-1, description="-1: the whole vocabulary.")
    best_of: int | None = Field(
        None, ge=1, le=MAX_N, description="Generate so many choices and answer with the n of the highest mean logprob; no stream."
    )
    add_special_tokens: bool = True

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = GenerationFields.REFUSED | {
        "suffix": (),
        "prompt_embeds": (),
        "thinking_token_budget": (-1,),
    }

    @property
    def wanted_logprobs(self) -> int | None:
        return 0 if self.logprobs is None and self.logprob_token_ids else self.logprobs

    @property
    def asked_max_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def num_drawn(self) -> int:
        return self.best_of or self.n

    def check(self) -> None:
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens must be at least 1, got 0; 0 is for echo, where only the prompt is wanted.", "max_tokens")
        if self.num_drawn < self.n:
            raise RequestError(f"best_of ({self.best_of}) must be at least n ({self.n}).", "best_of")
        if self.num_drawn > self.n and self.stream:
            raise RequestError(
                "best_of can't be streamed: which choices are best shows at the end. Leave stream out, or best_of.", "best_of"
            )
