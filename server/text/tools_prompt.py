"""Tools, calls and their answers as plain messages, for chat templates that know nothing of them.

The form is Hermes's, which SmolLM2 and many others were trained on and which the parser ``hermes`` reads. Messages are as
chat_template.py has prepared them: a content is a text, a list of typed parts, or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from headway.server.text.template_traits import TemplateTraits

_INSTRUCTIONS = """\
You can call functions to help the user. These are the functions, with JSON schemas of their parameters:
<tools>{tools}</tools>

To call functions, answer with nothing but a JSON list of the calls between these marks:
<tool_call>[{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}]</tool_call>
Their results come back between <tool_response> marks. If no function helps, answer the user in your own words."""

Message = dict[str, Any]


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of ``tools``."""
    return _INSTRUCTIONS.format(tools=json.dumps([tool["function"] for tool in tools], ensure_ascii=False))


def with_instructions(messages: Sequence[Message], system: Message) -> list[Message]:
    """``messages`` behind the message ``system``, or with its content at the end of a system message that they begin with."""
    if not messages or messages[0].get("role") not in ("system", "developer"):
        return [system, *messages]
    first = messages[0]
    return [{**first, "content": _joined(first.get("content"), system["content"])}, *messages[1:]]


def with_readable_calls(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """``messages`` with those calls and answers of tools as text that the template of ``traits`` would lose or not understand."""
    readable = list(messages)
    if "tool_calls" not in traits.words:
        readable = [_with_calls_as_text(message) for message in readable]
    if "tool" not in traits.words:
        groups = groupby(readable, lambda message: message.get("role") == "tool")
        readable = [message for is_tool, group in groups for message in ([_as_user_message(group)] if is_tool else group)]
    return readable


def _with_calls_as_text(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    said = [{"name": call["function"]["name"], "arguments": call["function"].get("arguments") or {}} for call in calls]
    text = f"<tool_call>{json.dumps(said, ensure_ascii=False)}</tool_call>"
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": _joined(message.get("content"), text)}


def _as_user_message(answers: Iterable[Message]) -> Message:
    """Answers of tools in a row as one message: templates want users and assistants to take turns."""
    content: Any = None
    for answer in answers:
        for piece in ("<tool_response>", answer.get("content"), "</tool_response>"):
            content = _joined(content, piece) if piece else content
    return {"role": "user", "content": content}


def _joined(content: Any, more: Any) -> Any:
    """Two contents, the second on lines of its own; as parts if one of them is."""
    if not content:
        return more
    if isinstance(content, str) and isinstance(more, str):
        return f"{content}\n{more}"
    return [*(content if isinstance(content, list) else [_part(content)]), *(more if isinstance(more, list) else [_part(more)])]


def _part(text: str) -> Message:
    return {"type": "text", "text": text}
