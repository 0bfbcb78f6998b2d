"""The reasoning parsers by name, what the prompt says of reasoning, and which parser a model wants."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from headway.server.text.harmony import HarmonyParser
from headway.server.text.output import OutputParser
from headway.server.text.reasoning.families import FAMILIES, HARMONY, Marks
from headway.server.text.reasoning.marked import MarkedParser
from headway.server.text.reasoning.token_counter import TokenCounter
from headway.server.text.tokenizer import Tokenizer

REASONING_PARSERS = tuple(sorted(FAMILIES))

_TELLING_TOKENS = {HARMONY: "<|channel|>", "mistral": "[THINK]", "seed_oss": "<seed:think>"}
_DEEPSEEK_TURN = "<｜Assistant｜>"
_TELLING_BESIDE_THINK = {"kimi_k2": "<|tool_calls_section_begin|>", "glm45": "[gMASK]", "minimax_m2": "]~b]"}


def make_reasoning_parser(name: str, inner: OutputParser, tokenizer: Tokenizer, *, is_open: bool) -> OutputParser:
    """A parser for one choice that hands all but the reasoning to ``inner``. ``name`` is one of REASONING_PARSERS.

    ``is_open``: the answer begins with reasoning even without a mark; see ``opens_reasoning``. For gpt-oss it tells the calls as well.
    """
    if name == HARMONY:
        return HarmonyParser(inner, tokenizer, is_open=is_open)
    counter = TokenCounter(tokenizer, skip_special_tokens=not keeps_special_tokens(name))
    return MarkedParser(FAMILIES[name], inner, counter, is_open=is_open)


def keeps_special_tokens(name: str) -> bool:
    """Whether the parser needs the text with its special tokens."""
    return FAMILIES[name].has_special_marks


def reasoning_end_tokens(name: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens, in a row, that end the reasoning of an answer."""
    return _ids_of(FAMILIES[name].end[0], tokenizer)


def opens_reasoning(name: str, prompt_text: str, template_kwargs: Mapping[str, Any] | None = None, *, continues: bool = False) -> bool:
    """Whether the answer to a rendered prompt begins with reasoning even without a start mark.

    The end of the prompt decides: templates write the start mark there, or both marks where reasoning is switched off. Where it has
    neither, an enable_thinking or thinking of false in ``template_kwargs`` decides, and then the family's habit.
    ``continues``: the prompt ends within an answer (continue_final_message), whose own marks stand anywhere in it.
    """
    said = _said_by_prompt(FAMILIES[name], prompt_text, continues)
    return FAMILIES[name].starts_open and _asked(template_kwargs) is not False if said is None else said


def may_reason(name: str, prompt_text: str, template_kwargs: Mapping[str, Any] | None = None, *, continues: bool = False) -> bool:
    """Whether the answer may begin with reasoning at all; see ``opens_reasoning``. If not, a grammar holds from its first token."""
    said = _said_by_prompt(FAMILIES[name], prompt_text, continues)
    asked = _asked(template_kwargs)
    return (asked is True if FAMILIES[name].is_opt_in else asked is not False) if said is None else said


def detect_reasoning_parser(template_source: str, tokens: Collection[str]) -> str | None:
    """The parser of a model with this chat template and these added tokens; None where it does not reason as far as one can tell."""
    for name, text in _TELLING_TOKENS.items():
        if text in tokens:
            return name
    if FAMILIES["granite"].start[0] in template_source:
        return "granite"
    if "think>" not in template_source:
        return None
    if _DEEPSEEK_TURN in template_source:
        return "deepseek_v3" if "thinking" in template_source else "deepseek_r1"
    for name, text in _TELLING_BESIDE_THINK.items():
        if text in tokens or text in template_source:
            return name
    # The others differ in what an answer without marks means only; without a doubt in the prompt it is content here.
    return "qwen3"


def _said_by_prompt(marks: Marks, prompt_text: str, continues: bool) -> bool | None:
    """True: reasoning is open at its end; False: it is closed, or an answer without any is continued; None: it says nothing."""
    text = prompt_text.rstrip()
    start, end = (max((text.rfind(mark), len(mark)) for mark in kind) for kind in (marks.start, marks.end))
    at, length = max(start, end)
    if continues:
        return at >= 0 and start > end
    return start > end if at >= 0 and at + length == len(text) else None


def _asked(template_kwargs: Mapping[str, Any] | None) -> Any:
    """What the template's variables say of reasoning; None: nothing."""
    kwargs = template_kwargs or {}
    return kwargs.get("enable_thinking", kwargs.get("thinking"))


def _ids_of(mark: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    token_id = tokenizer.token_to_id(mark)
    return (token_id,) if token_id is not None else tuple(tokenizer.encode(mark, add_special_tokens=False))
