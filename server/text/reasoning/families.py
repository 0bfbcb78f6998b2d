"""How each family of models writes its reasoning: marks around it, and what a missing first mark means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """The first of ``start`` and of ``end`` is the one that the model was trained on; the others are seen now and then.

    ``implied_ends`` end the reasoning too and belong to what follows: the beginning of a call that the model makes without an end mark.
    ``starts_open``: an answer without a start mark, to a prompt that says nothing of reasoning, begins with reasoning.
    ``has_special_marks``: the marks are special tokens, which a detokenizer must not skip.
    ``is_opt_in``: the model reasons only where the template is told to (``thinking``).
    """

    start: tuple[str, ...] = ("<think>",)
    end: tuple[str, ...] = ("</think>",)
    implied_ends: tuple[str, ...] = ()
    starts_open: bool = False
    has_special_marks: bool = False
    is_opt_in: bool = False


_THINK = Marks()
_OPEN_THINK = Marks(starts_open=True)
_QWEN = Marks(implied_ends=("<tool_call>\n<function=",))

HARMONY = "openai_gptoss"  # read by text/harmony.py; the marks are for the rest

# By vLLM's names for them.
FAMILIES: Mapping[str, Marks] = {
    "deepseek_r1": _OPEN_THINK,
    "deepseek_v3": _THINK,
    "ernie45": _OPEN_THINK,
    "glm45": _THINK,
    "glm47": _THINK,
    "granite": Marks(
        start=("Here is my thought process:", "Here's my thought process:"),
        end=("Here is my response:", "Here's my response:"),
        is_opt_in=True,
    ),
    "holo2": _OPEN_THINK,
    "hunyuan_a13b": _THINK,
    "kimi_k2": Marks(implied_ends=("<|tool_calls_section_begin|>",), starts_open=True),
    "mimo": _QWEN,
    "minimax_m2": _OPEN_THINK,
    "mistral": Marks(start=("[THINK]",), end=("[/THINK]",), has_special_marks=True),
    "olmo3": _OPEN_THINK,
    HARMONY: Marks(start=("<|channel|>analysis<|message|>",), end=("<|channel|>final<|message|>",), has_special_marks=True),
    "qwen3": _QWEN,
    "seed_oss": Marks(start=("<seed:think>",), end=("</seed:think>",)),
    "step3": _OPEN_THINK,
}
