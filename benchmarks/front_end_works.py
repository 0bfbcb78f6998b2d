"""What benchmarks/front_end.py sends, and what a right answer is."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from headway.server.bench.prompts import COMMON_WORDS

MODEL = "stub"
_NUM_PROMPTS = 256
_CHAT_TOKENS = 4


class WrongAnswer(Exception):
    """An answer that is no answer to its request; the message says why."""


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    text: str | None = None
    delta: _Delta | None = None


class Answer(msgspec.Struct):
    id: str
    model: str
    choices: list[_Choice]
    usage: Usage | None = None


decode_answer = msgspec.json.Decoder(Answer).decode


def events_of(stream: bytes) -> list[bytes]:
    """The JSON objects in a stream. Raises WrongAnswer for one that has no proper end."""
    *events, done, rest = stream.split(b"\n\n")
    if done != b"data: [DONE]" or rest:
        raise WrongAnswer(f"the stream ended with {stream[-100:]!r}")
    return [event.removeprefix(b"data: ") for event in events]


class Work(ABC):
    """Requests of one kind, encoded before they are timed. ``name`` is the table's, ``path`` the route's."""

    name: str
    path: str

    def __init__(self, model_dir: Path) -> None:
        rng = random.Random(self.name)
        self._prompts = [" ".join(rng.choices(COMMON_WORDS, k=rng.randint(8, 40))) for _ in range(_NUM_PROMPTS)]
        tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._num_tokens = [len(tokenizer.encode(prompt).ids) for prompt in self._prompts]
        common = {"model": MODEL, "temperature": 0, "ignore_eos": True}
        self._bodies = [msgspec.json.encode(common | self._fields(prompt)) for prompt in self._prompts]

    def body(self, index: int) -> bytes:
        return self._bodies[index % _NUM_PROMPTS]

    def check(self, index: int, request_id: str, content: bytes) -> None:
        """Raises WrongAnswer where ``content`` is not the whole answer to request ``index``, sent under ``request_id``."""
        try:
            answers = [decode_answer(part) for part in self._objects(content)]
        except msgspec.MsgspecError as error:
            raise WrongAnswer(f"{error}: {content[:200]!r}") from error
        if not all(request_id in answer.id and answer.model == MODEL for answer in answers):
            raise WrongAnswer(f"not the answer to {request_id}: {content[:200]!r}")
        self._check(answers, self._num_tokens[index % _NUM_PROMPTS])

    @abstractmethod
    def _fields(self, prompt: str) -> dict[str, object]:
        """The body's fields of this kind."""

    @abstractmethod
    def _objects(self, content: bytes) -> list[bytes]:
        """The JSON objects in an answer."""

    @abstractmethod
    def _check(self, answers: list[Answer], num_prompt_tokens: int) -> None:
        """Raises WrongAnswer."""


class Completions(Work):
    """A token each, whole: nothing but the way in and out."""

    name = "completions, 1 token"
    path = "/v1/completions"

    def _fields(self, prompt: str) -> dict[str, object]:
        return {"prompt": prompt, "max_tokens": 1}

    def _objects(self, content: bytes) -> list[bytes]:
        return [content]

    def _check(self, answers: list[Answer], num_prompt_tokens: int) -> None:
        (answer,) = answers
        reasons = [choice.finish_reason for choice in answer.choices]
        if reasons != ["length"] or answer.usage != Usage(num_prompt_tokens, 1):
            raise WrongAnswer(f"finished by {reasons}, usage {answer.usage} instead of {num_prompt_tokens} and 1 tokens")


class ChatStreams(Work):
    """A few tokens each, streamed: as an application asks."""

    name = f"chat, {_CHAT_TOKENS} tokens streamed"
    path = "/v1/chat/completions"

    def _fields(self, prompt: str) -> dict[str, object]:
        messages = [{"role": "user", "content": prompt}]
        return {"messages": messages, "max_tokens": _CHAT_TOKENS, "stream": True, "stream_options": {"include_usage": True}}

    def _objects(self, content: bytes) -> list[bytes]:
        return events_of(content)

    def _check(self, answers: list[Answer], num_prompt_tokens: int) -> None:
        """The template adds to the prompt's tokens."""
        choices = [choice for answer in answers for choice in answer.choices]
        roles = [choice.delta.role for choice in choices if choice.delta and choice.delta.role]
        reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
        usage = answers[-1].usage
        if roles[:1] != ["assistant"] or reasons != ["length"]:
            raise WrongAnswer(f"the stream has roles {roles} and is finished by {reasons}")
        if usage is None or usage.completion_tokens != _CHAT_TOKENS or usage.prompt_tokens <= num_prompt_tokens:
            raise WrongAnswer(f"usage is {usage} for {num_prompt_tokens} and {_CHAT_TOKENS} tokens")
