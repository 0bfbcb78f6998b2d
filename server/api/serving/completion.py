"""Completions: one prompt or many to text_completion objects and chunks."""

from __future__ import annotations

import time
from typing import Any

from headway.server.api.deps import AppState, ServedModel
from headway.server.api.json_text import encode
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.completion import CompletionRequest
from headway.server.api.serving.answer import Answer, GeneratedAnswer
from headway.server.api.serving.call import Call
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.chunks import ChunkWriter
from headway.server.api.serving.generate import Asked, Generation, Usage
from headway.server.api.serving.grammar import checked_grammar
from headway.server.api.serving.kv_transfer import answered_transfer
from headway.server.api.serving.limits import check_limits
from headway.server.api.serving.logprobs import LogprobFormat
from headway.server.api.serving.prompts import EncodedPrompt, encode_prompt
from headway.server.api.serving.truncation import truncation_of
from headway.server.types import TokenLogprobs


async def open_completion(state: AppState, call: Call, request: CompletionRequest) -> Answer:
    """Raises the errors of deps.generating_model, RequestError, QueueFull, RequestTimedOut."""
    model = state.generating_model()
    check_limits(request, state.config.limits)
    adapter = state.adapter_of(request.model, call.adapter)
    prompts = await off_loop(call.num_bytes, lambda: _prompts(model, request))
    grammar = await checked_grammar(model, await off_loop(call.num_bytes, request.asked_grammar))
    public_id = f"cmpl-{call.id_of(request)}"
    form = _CompletionFormat(state, request, model, prompts, public_id, state.name_of(adapter))
    generation = await Generation.open(state, model, call, Asked(request, prompts, public_id, adapter, grammar))
    return GeneratedAnswer(state, request, generation, form)


def _prompts(model: ServedModel, request: CompletionRequest) -> list[EncodedPrompt]:
    many = len(request.prompt) > 1
    truncation = truncation_of(request, model)
    return [
        encode_prompt(
            model,
            prompt,
            add_special_tokens=request.add_special_tokens,
            param=f"prompt.{index}" if many else "prompt",
            num_wanted=min(request.max_tokens, 1),
            truncation=truncation,
        )
        for index, prompt in enumerate(request.prompt)
    ]


class _CompletionFormat:
    """See AnswerFormat."""

    def __init__(
        self, state: AppState, request: CompletionRequest, model: ServedModel, prompts: list[EncodedPrompt], public_id: str, name: str
    ) -> None:
        self._request = request
        self._tokenizer = model.tokenizer
        self._prompts = prompts
        self._logprobs = LogprobFormat.of(state.config.http, request, model.tokenizer)
        self._public_id = public_id
        self._name = name
        self._fingerprint = state.fingerprint
        self._created = int(time.time())
        self._writer = ChunkWriter("text_completion", public_id, self._created, name, self._fingerprint)
        self._is_text_only = request.wanted_logprobs is None and not request.return_token_ids
        self._offsets: dict[int, int] = {}  # choice that has begun -> characters of its tokens so far

    def chunks(self, delta: ChoiceDelta, usage: Usage | None) -> list[bytes]:
        if usage is None and delta.is_plain and delta.index in self._offsets and self._is_text_only:
            return [self._writer.plain(delta.index, b'"text":', delta.text, b"")]
        is_first = delta.index not in self._offsets
        text, logprobs = self._text_and_logprobs(delta, is_first)
        extra = self._ids(delta, is_first) if self._request.return_token_ids else {}
        if is_first and self._request.return_prompt_text:
            extra["prompt_text"] = self._prompt_of(delta).shown(self._tokenizer)
        if not (text or logprobs or extra or delta.finish_reason):
            return []
        chunk = self._writer.choice(
            delta.index,
            b'"text":' + encode(text),
            logprobs=logprobs,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            extra=extra,
            usage=usage,
        )
        return [chunk]

    def usage_chunk(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes:
        return self._writer.usage(usage, metrics)

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        return {
            "id": self._public_id,
            "object": "text_completion",
            "created": self._created,
            "model": self._name,
            "choices": [self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._fingerprint,
            "usage": usage.as_dict(),
            "kv_transfer_params": answered_transfer(choices),
        }

    def _choice(self, choice: ChoiceDelta) -> dict[str, Any]:
        text, logprobs = self._text_and_logprobs(choice, True)
        prompt_logprobs = None
        if self._request.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            prompt_logprobs = self._logprobs.prompt(choice.prompt_logprobs)
        ids = self._ids(choice, True) if self._request.return_token_ids else {"token_ids": None, "prompt_token_ids": None}
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            **ids,
            "prompt_text": self._prompt_of(choice).shown(self._tokenizer) if self._request.return_prompt_text else None,
            "prompt_logprobs": prompt_logprobs,
        }

    def _text_and_logprobs(self, delta: ChoiceDelta, is_first: bool) -> tuple[str, dict[str, Any] | None]:
        """A choice's first piece brings the echoed prompt."""
        echoes = is_first and self._request.echo
        text = self._prompt_text(delta) + delta.text if echoes else delta.text
        offset = self._offsets.setdefault(delta.index, 0)
        if self._request.wanted_logprobs is None:
            return text, None
        token_ids = delta.token_ids
        at: list[TokenLogprobs | None] = [*(delta.logprobs or [])]
        if echoes:
            token_ids = self._prompt_of(delta).token_ids + token_ids
            at = [*(delta.prompt_logprobs or []), *at]
        if not token_ids and not is_first:
            return text, None
        logprobs = self._logprobs.completion(token_ids, at, offset)
        self._offsets[delta.index] = offset + sum(len(self._tokenizer.token_text(token_id)) for token_id in token_ids)
        return text, logprobs

    def _prompt_of(self, delta: ChoiceDelta) -> EncodedPrompt:
        return self._prompts[delta.index // self._request.n]

    def _prompt_text(self, delta: ChoiceDelta) -> str:
        prompt = self._prompt_of(delta)
        if prompt.text is not None:
            return prompt.text
        return self._tokenizer.decode(prompt.token_ids, skip_special_tokens=self._request.skip_special_tokens)

    def _ids(self, delta: ChoiceDelta, is_first: bool) -> dict[str, Any]:
        ids: dict[str, Any] = {"token_ids": delta.token_ids}
        if is_first:
            ids["prompt_token_ids"] = self._prompt_of(delta).token_ids
        return ids
