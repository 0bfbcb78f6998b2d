"""Options about how messages become a prompt, and how the answer is read."""

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
    exclude_tools_when_tool_choice_none: bool = option(
        False, "Do not show a request's tools to the model where its `tool_choice` is none. Such an answer has no calls in any case."
    )
    enable_auto_tool_choice: bool = option(
        True, "Let the model decide whether it calls the tools of a request. Off: such requests need a `tool_choice`."
    )
    tool_call_parser: str = option(
        "auto",
        "How the model writes calls of tools: a name from the page tool_parsers, or auto, which knows it by the model's chat template.",
    )
    reasoning_parser: str = option(
        "auto",
        "How the model writes its reasoning, which answers tell apart from the content: a name from the page reasoning; auto, which knows "
        "it by the model's chat template; none, which leaves it in the content.",
    )
    send_reasoning_content: bool = option(
        False, "Send reasoning under its older name too: `reasoning_content` beside `reasoning`, in answers and streams."
    )


def chat_problems(chat: ChatConfig) -> list[str]:
    own = sorted(OWN_VARIABLES & chat.default_chat_template_kwargs.keys())
    return [f"--default-chat-template-kwargs must not set {', '.join(own)}: those are fields of the request"] if own else []
