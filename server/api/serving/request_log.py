"""Lines about one request, with --enable-log-requests: what was asked for, and with --enable-log-outputs what came of it.

Prompts stand at DEBUG only, outputs behind an option of their own: both are the users' business unless the operator says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.prompts import EncodedPrompt
from headway.server.config.logs import LogConfig
from headway.server.types import SamplingParams
from headway.server.words import cut, plural

log = logging.getLogger(__name__)

_MAX_SAMPLING_SHOWN = 1000
# The model's own, and what has no place in a line.
_UNTOLD = ("eos_token_ids", "logit_bias", "allowed_token_ids", "bad_words", "logprob_token_ids", "grammar")
_DEFAULTS = SamplingParams()


class RequestLog:
    """One request's. ``model`` is the name that its answers show, an adapter's too; ``public_id`` is the answer's id."""

    def __init__(self, logs: LogConfig, public_id: str, request_id: str, model: str) -> None:
        self._tells_outputs = logs.enable_log_outputs
        self._max_length = logs.max_log_len
        self._public_id = public_id
        self._model = model
        self._extra = {"request_id": request_id}
        self._texts: dict[int, list[str]] = {}  # by choice

    def on_admitted(self, prompts: Sequence[EncodedPrompt], sampling: SamplingParams, n: int) -> None:
        tokens = plural(sum(len(prompt.token_ids) for prompt in prompts), "prompt token")
        many = f" in {len(prompts)} prompts" if len(prompts) > 1 else ""
        log.info("%s: model %r, %s%s, n=%d%s", self._public_id, self._model, tokens, many, n, _shown(sampling), extra=self._extra)
        if log.isEnabledFor(logging.DEBUG):
            for index, prompt in enumerate(prompts):
                text = self._cut(prompt.text) if prompt.text is not None else str(prompt.token_ids[: self._max_length])
                log.debug("%s: prompt %d: %s", self._public_id, index, text, extra=self._extra)

    def on_delta(self, delta: ChoiceDelta) -> None:
        if self._tells_outputs:
            self._texts.setdefault(delta.index, []).append(delta.text)

    def on_end(self, num_tokens: Sequence[int], reasons: Sequence[str]) -> None:
        """Both by choice."""
        for index, (count, reason) in enumerate(zip(num_tokens, reasons, strict=True)):
            if self._tells_outputs:
                text = self._cut("".join(self._texts.get(index, [])))
                log.info("%s: choice %d, %s, %s: %s", self._public_id, index, plural(count, "token"), reason, text, extra=self._extra)

    def _cut(self, text: str) -> str:
        return text[: self._max_length]


def log_texts(public_id: str, request_id: str, model: str, task: str, num_texts: int, num_tokens: int) -> None:
    """One request to pool texts, as it is admitted."""
    told = (public_id, model, plural(num_texts, "text"), plural(num_tokens, "token"), task)
    log.info("%s: model %r, %s, %s, task %s", *told, extra={"request_id": request_id})


def _shown(sampling: SamplingParams) -> str:
    """What is set, as ", max_tokens=16, temperature=0.5"."""
    given = {name: getattr(sampling, name) for name in SamplingParams.__struct_fields__ if name not in _UNTOLD}
    shown = "".join(f", {name}={value}" for name, value in given.items() if value != getattr(_DEFAULTS, name))
    shown += f", logit_bias of {plural(len(sampling.logit_bias), 'token')}" if sampling.logit_bias else ""
    return cut(shown + (", with a grammar" if sampling.grammar is not None else ""), _MAX_SAMPLING_SHOWN)
