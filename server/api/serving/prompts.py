"""Prompts as token ids: rendered, tokenised and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.server.api.deps import ServedModel
from headway.server.api.protocol.messages import PromptFields
from headway.server.api.protocol.parse import shortened
from headway.server.api.serving.truncation import Truncation
from headway.server.config.chat import ChatConfig
from headway.server.errors import RequestError
from headway.server.text.tokenizer import Tokenizer

# A text of more characters per token of context than this is measured by its beginning first.
_LIKELY_CHARS_PER_TOKEN = 16
_SLACK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """``text`` is None for a prompt that came as token ids, or was cut."""

    token_ids: list[int]
    text: str | None

    def shown(self, tokenizer: Tokenizer) -> str:
        """The prompt's text (return_prompt_text), special tokens included."""
        return self.text if self.text is not None else tokenizer.decode(self.token_ids, skip_special_tokens=False)


def rendered_chat(chat: ChatConfig, model: ServedModel, request: PromptFields) -> str:
    """A chat as the model's template writes it, or the request's own. CPU work. Raises RequestError."""
    template = model.chat_template
    if request.chat_template is not None:
        if not chat.trust_request_chat_template:
            raise RequestError(
                "chat_template is not taken from requests by this server; leave it out, or start it with --trust-request-chat-template.",
                "chat_template",
            )
        template = template.replaced_by(request.chat_template)
    hides_tools = chat.exclude_tools_when_tool_choice_none or not template.knows_tools
    tools = None if request.wanted_tools.mode == "none" and hides_tools else request.tools
    return template.render(
        request.messages,
        tools=tools or None,
        documents=request.documents or None,
        add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        continue_final_message=request.continue_final_message,
        kwargs=template_kwargs(chat, request),
    )


def chat_ids(chat: ChatConfig, model: ServedModel, request: PromptFields, *, add_special_tokens: bool = False) -> list[int]:
    """A chat's token ids for those who ask for them or count them: they may be more than the context holds, but not hopelessly.

    CPU work. Raises RequestError.
    """
    text = rendered_chat(chat, model, request)
    refuse_hopeless(model, text, "messages")
    return model.tokenizer.encode(text, add_special_tokens=add_special_tokens)


def template_kwargs(chat: ChatConfig, request: PromptFields) -> dict[str, Any]:
    """Variables of the template. Some know how much to think (reasoning_effort), others only whether to."""
    effort = request.reasoning_effort
    asked = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return {**chat.default_chat_template_kwargs, **asked, **request.chat_template_kwargs}


def encode_prompt(
    model: ServedModel,
    prompt: str | list[int],
    *,
    add_special_tokens: bool,
    param: str,
    num_wanted: int,
    truncation: Truncation | None = None,
) -> EncodedPrompt:
    """CPU work. ``num_wanted`` output tokens at least must fit behind the prompt. Raises RequestError that names ``param``."""
    text: str | None = None
    if not isinstance(prompt, str):
        token_ids = prompt
    else:
        if truncation is None:
            refuse_hopeless(model, prompt, param)
        text = prompt if truncation is None else truncation.of_text(prompt)
        token_ids = model.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    kept = token_ids if truncation is None else truncation.of_ids(token_ids, model.tokenizer.bos_token_id)
    check_length(model, len(kept), param, num_wanted)
    if text is None:
        check_ids(model, kept, param)
    return EncodedPrompt(kept, text if text == prompt and len(kept) == len(token_ids) else None)


def check_ids(model: ServedModel, token_ids: Sequence[int], param: str) -> None:
    """Each of the vocabulary, and no more than the context holds. Raises RequestError."""
    info = model.info
    if len(token_ids) > info.max_model_len:
        raise RequestError(
            f"{param} holds {len(token_ids)} token ids; this model's context is {info.max_model_len} tokens. Send fewer.", param
        )
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < info.vocab_size):
        wrong = next(token_id for token_id in token_ids if not 0 <= token_id < info.vocab_size)
        raise RequestError(
            f"{param} holds token id {shortened(wrong)}; this model's vocabulary goes from 0 to {info.vocab_size - 1}.", param
        )


def check_length(model: ServedModel, num_tokens: int, param: str, num_wanted: int) -> None:
    info = model.info
    if num_tokens == 0:
        raise RequestError(f"{param} has no tokens; give at least one.", param)
    if num_tokens + num_wanted > info.max_model_len:
        raise RequestError(
            f"The prompt has {num_tokens} tokens; this model's context of {info.max_model_len} tokens must hold it and the answer. "
            "Shorten the prompt.",
            param,
        )
    if num_tokens > info.num_blocks * info.block_size:
        raise RequestError(
            f"The prompt has {num_tokens} tokens; the KV cache of this server holds {info.num_blocks * info.block_size}. "
            "Shorten the prompt, or give the cache more (--kv-cache-memory-bytes).",
            param,
        )


def refuse_hopeless(model: ServedModel, text: str, param: str) -> None:
    """A text of megabytes would cost seconds of a core; its beginning alone shows that it does not fit. Raises RequestError."""
    enough = model.info.max_model_len * _LIKELY_CHARS_PER_TOKEN
    if len(text) <= 2 * enough:
        return
    num_tokens = len(model.tokenizer.encode(text[:enough], add_special_tokens=False))
    # The cut may split a few tokens into more; beyond that a beginning has no more tokens than the whole.
    if num_tokens > model.info.max_model_len + _SLACK_TOKENS:
        raise RequestError(
            f"The prompt has {len(text)} characters and more than {num_tokens - _SLACK_TOKENS} tokens; this model's context is "
            f"{model.info.max_model_len} tokens. Shorten the prompt.",
            param,
        )
