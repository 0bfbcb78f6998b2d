"""How the text of a chat's answer is read: what is reasoning, what is content, and which tools it calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from headway.server.api.deps import ServedModel
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Generation
from headway.server.errors import RequestError
from headway.server.text.output import OutputParser, PlainParser, joined
from headway.server.text.parsers import READ_WITH_REASONING
from headway.server.text.reasoning import registry as reasoning
from headway.server.text.reasoning.budget import thinking_budget
from headway.server.text.tools import registry as tools
from headway.server.text.tools.constrained import NamedParser, RequiredParser
from headway.server.types import ThinkingBudget, TokenLogprobs


class Reading:
    """What is decided about one request, once its prompt is there. ``template_kwargs``: the variables that made the prompt."""

    def __init__(self, model: ServedModel, request: ChatCompletionRequest, prompt: str, template_kwargs: Mapping[str, Any]) -> None:
        self._model = model
        self._tools = request.tools
        self._choice = request.wanted_tools
        self._reasoning = model.parsers.reasoning
        self._is_open, self._may_reason = False, False
        if (name := self._reasoning) is not None:
            continues = request.continue_final_message
            self._is_open = reasoning.opens_reasoning(name, prompt, template_kwargs, continues=continues)
            self._may_reason = reasoning.may_reason(name, prompt, template_kwargs, continues=continues)

    @property
    def tells_reasoning(self) -> bool:
        return self._reasoning is not None

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether the text must hold the special tokens, which a parser then takes out."""
        return self._reads_marked_calls or (self._reasoning is not None and reasoning.keeps_special_tokens(self._reasoning))

    @property
    def _reads_marked_calls(self) -> bool:
        name = self._model.parsers.tools
        return self._choice.mode == "auto" and name != READ_WITH_REASONING and tools.keeps_special_tokens(name)

    @property
    def end_of_reasoning(self) -> tuple[int, ...]:
        """Grammar.starts_after: empty where the answer begins with what it constrains."""
        return reasoning.reasoning_end_tokens(self._reasoning, self._model.tokenizer) if self._reasoning and self._may_reason else ()

    def thinking_budget(self, num_tokens: int | None) -> ThinkingBudget | None:
        """What a thinking_token_budget comes to. Raises RequestError where reasoning can't be ended by the engine."""
        if num_tokens is None or num_tokens < 0:
            return None
        if self._reasoning is None:
            raise RequestError(
                "thinking_token_budget needs a server that tells reasoning apart (--reasoning-parser); leave it out.",
                "thinking_token_budget",
            )
        return thinking_budget(self._reasoning, self._model.tokenizer, num_tokens, is_open=self._is_open) if self._may_reason else None

    def make_parser(self) -> OutputParser:
        """For one choice."""
        inner = self._calls_parser()
        if self._reasoning is None:
            return inner
        return reasoning.make_reasoning_parser(
            self._reasoning, inner, self._model.tokenizer, is_open=self._is_open, wants_calls=self._choice.mode != "none"
        )

    def _calls_parser(self) -> OutputParser:
        match self._choice.mode:
            case "auto" if self._model.parsers.tools != READ_WITH_REASONING:
                return tools.make_tool_parser(self._model.parsers.tools, self._tools)
            case "required":
                return RequiredParser()
            case "named":
                assert self._choice.name is not None
                return NamedParser(self._choice.name)
            case _:
                return PlainParser()


def check_auto_choice(request: ChatCompletionRequest, is_enabled: bool) -> None:
    """Raises RequestError where the model would choose and may not."""
    if request.wanted_tools.mode == "auto" and not is_enabled:
        raise RequestError(
            "This server does not let the model choose whether to call tools (--no-enable-auto-tool-choice); "
            "send tool_choice none, required, or the name of one.",
            "tool_choice",
        )


class AnswerReader:
    """Turns the text of each choice into what it says, in place, and counts the tokens of the reasoning."""

    def __init__(self, reading: Reading, request: ChatCompletionRequest, generation: Generation) -> None:
        self._parsers: defaultdict[int, OutputParser] = defaultdict(reading.make_parser)
        self._has_one_call = not request.parallel_tool_calls
        self._generation = generation
        self._is_hiding = reading.tells_reasoning and not request.include_reasoning
        self._hidden: defaultdict[int, _Tokens] = defaultdict(_Tokens)
        if reading.tells_reasoning:
            generation.num_reasoning_tokens = 0

    def __call__(self, delta: ChoiceDelta) -> None:
        parser = self._parsers[delta.index]
        piece = parser.push(delta.text, delta.token_ids)
        if delta.finish_reason is not None:
            piece = joined(piece, parser.finish())
        delta.text, delta.reasoning = piece.content, piece.reasoning
        if piece.tool_calls:
            delta.tool_calls = [call for call in piece.tool_calls if call.index == 0 or not self._has_one_call]
        if self._generation.num_reasoning_tokens is not None:
            self._generation.num_reasoning_tokens += piece.num_reasoning_tokens
        if self._is_hiding:
            delta.reasoning = ""
            self._hidden[delta.index].hide(delta, piece.num_reasoning_tokens)


class _Tokens:
    """Tokens of one choice of which it is not known yet whether they are reasoning."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []

    def hide(self, delta: ChoiceDelta, num_hidden: int) -> None:
        """Takes the next ``num_hidden`` tokens out of what is told, and holds the others back until ``delta`` tells something."""
        self._ids = [*self._ids, *delta.token_ids][num_hidden:]
        self._logprobs = [*self._logprobs, *(delta.logprobs or ())][num_hidden:]
        has_logprobs = delta.logprobs is not None
        delta.token_ids, delta.logprobs = [], None
        if delta.text or delta.tool_calls or delta.finish_reason is not None:
            delta.token_ids, self._ids = self._ids, []
            if has_logprobs:
                delta.logprobs, self._logprobs = self._logprobs, []
