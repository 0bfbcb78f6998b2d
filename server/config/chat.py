"""Options about how messages become a prompt."""

from __future__ import annotations

from typing import Any, Literal

from headway.server.config.fields import Topic, option

# Variables of a template that are fields of the request.
OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})


class ChatConfig(Topic):
    """Chat."""

    chat_template: str | None = option(None, "Jinja chat template: a file, or the template itself. Default: the model's.")
    chat_template_content_format: Literal["auto", "string", "openai"] = option(
        "auto",
        "How a message's content reaches the template: string as one text, openai as a list of typed parts, auto as the template reads it.",
    )
    trust_request_chat_template: bool = option(
        False,
        "Take the template in a request's `chat_template`. It runs in the sandbox, but can keep a core busy: for clients that you trust.",
    )
    default_chat_template_kwargs: dict[str, Any] = option(
        {}, 'JSON with variables of the template, such as {"enable_thinking": false}; a request\'s `chat_template_kwargs` go before it.'
    )


def chat_problems(chat: ChatConfig) -> list[str]:
    own = sorted(OWN_VARIABLES & chat.default_chat_template_kwargs.keys())
    return [f"--default-chat-template-kwargs must not set {', '.join(own)}: those are fields of the request"] if own else []
