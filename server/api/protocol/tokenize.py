"""The bodies of POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from headway.server.api.protocol.base import RequestModel, shown_with
from headway.server.api.protocol.messages import Message, PromptFields
from headway.server.errors import RequestError


class TokenizeRequest(PromptFields):
    """A text or a chat, as a generation request would have it tokenised."""

    model_config = shown_with({"prompt": "The capital of France is"}, {"messages": [{"role": "user", "content": "Hello"}]})

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(default_factory=list)
    add_special_tokens: bool | None = Field(None, description="Default: true for a prompt, false for messages.")
    return_token_strs: bool = False

    def check(self) -> None:
        super().check()
        if (self.prompt is None) == (not self.messages):
            raise RequestError("Give either prompt or messages.", "prompt")


class DetokenizeRequest(RequestModel):
    model_config = shown_with({"tokens": [0, 1]})

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]
