"""The bodies of POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import FailFast, Field

from headway.server.api.protocol.base import MAX_KEYS, RequestModel, at_most, shown_with
from headway.server.api.protocol.chat import Message, check_messages
from headway.server.errors import RequestError


class TokenizeRequest(RequestModel):
    """A text or a chat, as a generation request would have it tokenised."""

    model_config = shown_with({"prompt": "The capital of France is"}, {"messages": [{"role": "user", "content": "Hello"}]})

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(default_factory=list)
    tools: Annotated[list[dict[str, Any]], FailFast()] = Field(default_factory=list)
    add_special_tokens: bool | None = Field(None, description="Default: true for a prompt, false for messages.")
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = Field(None, description="In the place of the model's; needs --trust-request-chat-template.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field(default_factory=dict)
    return_token_strs: bool = False

    def check(self) -> None:
        if (self.prompt is None) == (not self.messages):
            raise RequestError("Give either prompt or messages.", "prompt")
        check_messages(self.messages)


class DetokenizeRequest(RequestModel):
    model_config = shown_with({"tokens": [0, 1]})

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]
