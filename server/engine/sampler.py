"""All that sampling remembers between steps, and the one call that turns a step's logits into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.engine.draw import BROKEN, RandomRow, choose_tokens, takes_argmax
from headway.server.engine.logit_bias import LogitBiasState
from headway.server.engine.logprobs import raw_rows
from headway.server.engine.penalties import PenaltyState
from headway.server.engine.randomness import KeySource, UniformStream
from headway.server.types import SamplingParams, TokenLogprobs


@dataclass(slots=True, frozen=True)
class _Row:
    sampling: SamplingParams
    num_prompt_tokens: int
    uniforms: UniformStream | None  # None: the row takes the argmax


@dataclass(slots=True, frozen=True)
class SampledTokens:
    """Three lists parallel to the ``rows`` of the call. A row with an error has no token: -1."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    errors: list[str | None]


class SamplingState:
    """The options, seeds and seen tokens of the runner's rows.

    ``seed`` is the server's: with it, requests that bring none draw from (seed, how many came before), else from the system's
    randomness. A row is any small integer of the caller's; it is free again after ``remove``.
    """

    def __init__(self, vocab_size: int, device: torch.device, seed: int | None = None) -> None:
        self._rows: dict[int, _Row] = {}
        self._keys = KeySource(seed)
        self._bias = LogitBiasState(vocab_size)
        self._penalties = PenaltyState(vocab_size, device)

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """``token_ids`` is the prompt and, after a preemption, what was generated. The row must be free.

        Raises RequestError, and leaves the row free, for options that the model's vocabulary does not have.
        """
        assert row not in self._rows, f"row {row} was added twice"
        self._bias.add(row, sampling)
        self._penalties.add(row, sampling, token_ids, num_prompt_tokens)
        uniforms = None if takes_argmax(sampling) else UniformStream(self._keys.key(sampling.seed))
        self._rows[row] = _Row(sampling, num_prompt_tokens, uniforms)

    def remove(self, row: int) -> None:
        """Forgets a row; one that is not there is no error."""
        self._rows.pop(row, None)
        self._bias.remove(row)
        self._penalties.remove(row)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Says which tokens were generated (and kept), one an entry, before the next ``sample`` of these rows."""
        self._penalties.append(rows, token_ids)

    def sample(self, logits: Tensor, rows: Sequence[int], num_tokens: Sequence[int]) -> SampledTokens:
        """Chooses one token a row from ``logits`` [L, V] float32, line i for ``rows[i]``. Overwrites ``logits``.

        ``num_tokens[i]`` counts the tokens that the row has so far, prompt included: the new one's position in the sequence.
        The result of a row depends on its own logits, options, seed and position only. Waits for the device once (once more
        if a row wants logprobs).
        """
        assert logits.dtype == torch.float32, f"sampling is done in float32, not {logits.dtype}"
        known = [self._rows[row] for row in rows]
        positions = [count - row.num_prompt_tokens for row, count in zip(known, num_tokens, strict=True)]
        raw = raw_rows(logits, [row.sampling.logprobs for row in known])
        self._bias.apply(logits, rows, positions)
        self._penalties.apply(logits, rows)
        random_rows = [
            RandomRow(index, row.sampling, row.uniforms.at(position))
            for index, (row, position) in enumerate(zip(known, positions, strict=True))
            if row.uniforms is not None
        ]
        token_ids: list[int] = choose_tokens(logits, random_rows).tolist()
        scored = raw.finish(token_ids) if raw is not None else {}
        return SampledTokens(
            token_ids,
            [scored.get(index) for index in range(len(rows))],
            [_broken(row.sampling) if token == BROKEN else None for row, token in zip(known, token_ids, strict=True)],
        )


def _broken(sampling: SamplingParams) -> str:
    forbids = " or its logit_bias and min_tokens leave no token to choose" if sampling.logit_bias or sampling.min_tokens else ""
    return f"The model gave no usable scores for the next token (NaN or infinite){forbids}; this request ends here."
