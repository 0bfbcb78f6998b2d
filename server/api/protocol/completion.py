"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from headway.server.api.protocol.base import MAX_N, GenerationFields, shown_with
from headway.server.api.protocol.texts import TextsOrIds
from headway.server.errors import RequestError


class CompletionRequest(GenerationFields):
    OPERATION = "text_completion"
    model_config = shown_with({"prompt": "The capital of France is", "max_tokens": 8})

    prompt: TextsOrIds
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
        if self.num_drawn > self.n and self.streams:
            raise RequestError(
                "best_of can't be streamed: which choices are best shows at the end. Leave stream out, or best_of.", "best_of"
            )
