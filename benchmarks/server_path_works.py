"""What benchmarks/server_path.py asks for, and how modelless_server.py must answer it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec
from front_end_works import MODEL, Answer, WrongAnswer, decode_answer, events_of
from modelless_server import FIRST_TOKEN, NUM_TOKENS
from server_path_load import Exchange, Load, body_of, post
from tokenizers import Tokenizer

from headway.server.bench.outcome import Outcome
from headway.server.bench.prompts import COMMON_WORDS

_NUM_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Work:
    """``num_connections`` clients, each with one request open, ``num_requests`` in all."""

    name: str
    is_chat: bool
    is_streamed: bool
    num_tokens: int
    num_connections: int
    num_requests: int

    def requests(self, port: int) -> list[bytes]:
        rng = random.Random(self.name)
        path = "/v1/chat/completions" if self.is_chat else "/v1/completions"
        return [post(port, path, self._body(" ".join(rng.choices(COMMON_WORDS, k=rng.randint(8, 40))))) for _ in range(_NUM_PROMPTS)]

    def _body(self, prompt: str) -> bytes:
        body: dict[str, object] = {"model": MODEL, "max_tokens": self.num_tokens, "temperature": 0, "ignore_eos": True}
        body |= {"messages": [{"role": "user", "content": prompt}]} if self.is_chat else {"prompt": prompt}
        if self.is_streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode(body)


class Checker:
    """Knows the right answers of the model in ``model_dir``."""

    def __init__(self, model_dir: Path) -> None:
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._pieces = [tokenizer.decode([FIRST_TOKEN + k]) for k in range(NUM_TOKENS)]

    def outcomes(self, work: Work, load: Load) -> tuple[list[Outcome], int]:
        """(each request, how many events brought text)"""
        checked = [self._checked(work, exchange) for exchange in load.exchanges]
        return [outcome for outcome, _ in checked], sum(num_events for _, num_events in checked)

    def _checked(self, work: Work, exchange: Exchange) -> tuple[Outcome, int]:
        times = exchange.times
        outcome = Outcome(exchange.started, times[-1], times, num_output_tokens=work.num_tokens, has_usage=True)
        try:
            body = body_of(exchange)
            answers = [decode_answer(part) for part in (events_of(body) if work.is_streamed else [body])]
            return outcome, self._check(work, answers)
        except (WrongAnswer, msgspec.MsgspecError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
            return outcome, 0

    def _check(self, work: Work, answers: list[Answer]) -> int:
        """How many events brought text. Raises WrongAnswer."""
        choices = [choice for answer in answers for choice in answer.choices]
        texts = [(choice.delta.content if choice.delta else choice.text) or "" for choice in choices]
        reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
        usage = answers[-1].usage
        if usage is None or usage.completion_tokens != work.num_tokens or reasons != ["length"]:
            raise WrongAnswer(f"usage is {usage} and the finish reasons are {reasons}; {work.num_tokens} tokens were asked for")
        first = usage.prompt_tokens
        expected = "".join(self._pieces[at % NUM_TOKENS] for at in range(first, first + work.num_tokens))
        if (text := "".join(texts)) != expected:
            raise WrongAnswer(f"the text is {text[:80]!r}.. instead of {expected[:80]!r}..")
        return sum(1 for text in texts if text)
