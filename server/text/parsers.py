"""Which parsers read a model's answers: those that the options name, or those that its chat template tells."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from headway.server.config.chat import ChatConfig
from headway.server.errors import ConfigError
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.reasoning.families import HARMONY
from headway.server.text.reasoning.registry import REASONING_PARSERS, detect_reasoning_parser
from headway.server.text.tokenizer import Tokenizer
from headway.server.text.tools.registry import TOOL_PARSERS, detect_tool_parser

# The form that tools_prompt.py asks for, and the one that most models without a form of their own were shown.
_COMMON_FORM = "hermes"
# The calls of gpt-oss are read together with its reasoning.
READ_WITH_REASONING = "openai"


@dataclass(frozen=True, slots=True)
class Parsers:
    """Names of registered parsers, or READ_WITH_REASONING. ``reasoning`` None: it is not told apart from the content."""

    tools: str
    reasoning: str | None


def check_parser_names(chat: ChatConfig) -> None:
    """Raises ConfigError for a name that is no parser's."""
    found = [
        *_name_problems("--tool-call-parser", chat.tool_call_parser, ["auto", READ_WITH_REASONING, *TOOL_PARSERS]),
        *_name_problems("--reasoning-parser", chat.reasoning_parser, ["auto", "none", *REASONING_PARSERS]),
    ]
    if chat.tool_call_parser == READ_WITH_REASONING and chat.reasoning_parser not in ("auto", HARMONY):
        found.append(f"--tool-call-parser {READ_WITH_REASONING} goes with --reasoning-parser {HARMONY} only: leave one of them out")
    if found:
        raise ConfigError(found)


def choose_parsers(chat: ChatConfig, template: ChatTemplate, tokenizer: Tokenizer) -> Parsers:
    """For the model that ``template`` and ``tokenizer`` are of. The names have been checked."""
    source = "\n".join(template.sources.values())
    tokens = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    tools, reasoning = chat.tool_call_parser, chat.reasoning_parser
    if reasoning == "auto":
        reasoning = HARMONY if tools == READ_WITH_REASONING else detect_reasoning_parser(source, tokens) or "none"
    if tools == "auto" and reasoning == HARMONY:
        tools = READ_WITH_REASONING
    elif tools == "auto":
        tools = (detect_tool_parser(source, tokens) if template.knows_tools else None) or _COMMON_FORM
    return Parsers(tools, None if reasoning == "none" else reasoning)


def _name_problems(flag: str, name: str, known: Collection[str]) -> list[str]:
    if name in known:
        return []
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"
    return [f"{flag} {name}: there is no such parser; {hint}"]
