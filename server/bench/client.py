"""One request to an OpenAI-compatible server, streamed and timed.

aiohttp and not httpx, because a load generator shares the machine with what it measures: 32 streams of 256 events cost 10 us of
CPU an event with aiohttp and typed decoding, 23 us with httpx and json (2026-11-24, 2 cores, packets of several events).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import aiohttp
import msgspec

from headway.server.bench.errors import BenchError
from headway.server.bench.outcome import Outcome

Endpoint = Literal["completions", "chat"]


@dataclass(slots=True, frozen=True)
class Work:
    """What every request of a run asks for beside its prompt. ``extra`` goes into the JSON body as it is."""

    model: str
    endpoint: Endpoint
    output_len: int
    ignore_eos: bool = False
    temperature: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None

    @property
    def has_text(self) -> bool:
        delta = self.delta
        return bool(self.text or (delta and (delta.content or delta.reasoning_content or delta.reasoning)))


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_decode_event = msgspec.json.Decoder(_Event).decode


class Session:
    """Connections to one server. Each request has a connection of its own.

    No connection is used twice: some servers (llama.cpp's) close idle ones without a word, and the next request would be lost.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 900.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __aenter__(self) -> Session:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers, trust_env=False)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.close()

    async def first_model(self) -> str:
        """The server's first model. Raises BenchError if it does not say."""
        address = f"{self.url}/v1/models"
        try:
            async with self._http.get(address) as response:
                body = await response.read()
                if response.status != 200:
                    raise BenchError(f"{address} answered {_problem(response.status, body)}")
                models = msgspec.json.decode(body, type=_Models).data
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise BenchError(f"{address} can't be read: {_say(error)}. Is a server running there? Else give its --url.") from error
        if not models:
            raise BenchError(f"{address} lists no model; name one with --model.")
        return models[0].id

    async def count_prompt_tokens(self, work: Work, prompt: str) -> int:
        """How many tokens the server says the prompt has. Costs one output token. Raises BenchError if it does not say."""
        outcome = await self.generate(work, prompt, output_len=1)
        if outcome.error is not None:
            raise BenchError(f"A first request failed: {outcome.error}")
        if not outcome.has_usage:
            raise BenchError("The server sends no usage with its streams, so prompts can't be sized; give --tokenizer.")
        return outcome.num_prompt_tokens

    async def generate(self, work: Work, prompt: str, output_len: int | None = None) -> Outcome:
        """Streams one completion. Never raises for what the server or the network does: see ``Outcome.error``."""
        body = _body(work, prompt, work.output_len if output_len is None else output_len)
        path = "/v1/chat/completions" if work.endpoint == "chat" else "/v1/completions"
        outcome = Outcome(time.perf_counter())
        try:
            async with self._http.post(self.url + path, json=body) as response:
                if response.status != 200:
                    outcome.error = _problem(response.status, await response.read())
                else:
                    await _read_stream(response.content, outcome)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
            outcome.error = _say(error)
        outcome.ended = time.perf_counter()
        if outcome.error is None and not outcome.chunk_times:
            outcome.error = "the stream ended without any text"
        if not outcome.has_usage:
            outcome.num_output_tokens = len(outcome.chunk_times)
        return outcome


def _body(work: Work, prompt: str, output_len: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": work.model,
        "max_tokens": output_len,
        "temperature": work.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body.update({"messages": [{"role": "user", "content": prompt}]} if work.endpoint == "chat" else {"prompt": prompt})
    if work.ignore_eos:
        body["ignore_eos"] = True
    return body | work.extra


async def _read_stream(content: aiohttp.StreamReader, outcome: Outcome) -> None:
    """Reads server-sent events to their end. A packet may hold several events, or part of one."""
    rest = b""
    is_done = False
    async for packet in content.iter_any():
        now = time.perf_counter()
        *lines, rest = (rest + packet).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                is_done = True
            else:
                _take(_decode_event(data), now, outcome)
    if outcome.error is None and not is_done:
        outcome.error = "the stream broke off before [DONE]"


def _take(event: _Event, now: float, outcome: Outcome) -> None:
    if event.error is not None:
        outcome.error = f"the stream held an error: {msgspec.json.encode(event.error).decode()[:200]}"
    if event.usage is not None:
        outcome.has_usage = True
        outcome.num_prompt_tokens = event.usage.prompt_tokens
        outcome.num_output_tokens = event.usage.completion_tokens
        details = event.usage.prompt_tokens_details
        outcome.num_cached_tokens = (details.cached_tokens or 0) if details else 0
    if any(choice.has_text for choice in event.choices or ()):
        outcome.chunk_times.append(now)


def _problem(status: int, body: bytes) -> str:
    return f"HTTP {status}: {body[:200].decode(errors='replace')}"


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
