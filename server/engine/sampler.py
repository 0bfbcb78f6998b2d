"""All that sampling remembers between steps, an option at a time, and the one call that turns a step's logits into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.sampling import BROKEN
from headway.server.engine.batch import RowError
from headway.server.engine.draw import RandomRow, choose_tokens, depends_on_output, takes_argmax, wants_top_token_only
from headway.server.engine.logit_bias import LogitBiasState
from headway.server.engine.logits_state import LogitsState
from headway.server.engine.logprobs import RawScores, raw_rows
from headway.server.engine.penalties import PenaltyState
from headway.server.engine.randomness import KeySource, UniformStream
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.structured.state import GrammarState
from headway.server.engine.thinking import ThinkingState
from headway.server.engine.token_bans import TokenBanState
from headway.server.engine.transfers import Arrival, upload
from headway.server.engine.user_processors import UserProcessors
from headway.server.types import SamplingParams, TokenLogprobs


@dataclass(slots=True)
class _Row:
    sampling: SamplingParams
    num_output_tokens: int
    uniforms: UniformStream | None  # None: the row takes the argmax
    bans: list[str]  # the options that may leave it no token
    depends_on_output: bool
    takes_top_only: bool
    error: RowError | None = None  # why it can't be sampled


@dataclass(slots=True, frozen=True)
class SampledTokens:
    """Parallel to the ``rows`` of the call, but ``errors``: {place: why there is no token}; the token id there is -1, as at the places
    that are ``complete``, where a grammar leaves none. What is said of those ``dropped`` means nothing."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    errors: dict[int, RowError]
    complete: frozenset[int] = frozenset()
    dropped: frozenset[int] = frozenset()


@dataclass(slots=True, frozen=True)
class ChosenTokens:
    """What a step chose, on its way to the host."""

    on_device: Tensor  # [L] int64, BROKEN where a row's logits gave none
    bans: list[list[str]]  # parallel: the options that may leave a row no token
    failed: Mapping[int, RowError]
    complete: frozenset[int]
    arrival: Arrival  # of ``on_device`` and, if any row has bans, of which rows have no token left
    scores: RawScores | None

    @classmethod
    def plain(cls, token_ids: Tensor) -> ChosenTokens:
        """Of rows of which nothing but their token is wanted, or known here."""
        return cls(token_ids, [[] for _ in range(len(token_ids))], {}, frozenset(), Arrival([token_ids]), None)

    @property
    def for_other_ranks(self) -> Tensor:
        """``on_device``, BROKEN also where only this rank knows that there is no token: there a row's drafts end, on all ranks alike."""
        if none := [*self.failed, *self.complete]:
            return self.on_device.index_fill(0, upload(torch.tensor(none), self.on_device.device), BROKEN)
        return self.on_device

    def finish(self) -> SampledTokens:
        """Waits for this step, and for none behind it."""
        chosen, *has_none = [tensor.tolist() for tensor in self.arrival.wait()]
        token_ids = [BROKEN if line in self.failed or line in self.complete else token for line, token in enumerate(chosen)]
        scored = self.scores.finish() if self.scores is not None else {}
        logprobs = [None if token == BROKEN else scored.get(line) for line, token in enumerate(token_ids)]
        broken = [line for line, token in enumerate(token_ids) if token == BROKEN and line not in self.complete]
        errors = {line: self.failed.get(line) or _broken(self.bans[line] if has_none and has_none[0][line] else []) for line in broken}
        return SampledTokens(token_ids, logprobs, errors, self.complete)


class SamplingState:
    """The options, seeds and seen tokens of the runner's rows, which are numbered 0 to ``max_num_seqs`` - 1.

    ``seed`` is the server's: with it, requests that bring none draw from (seed, how many came before), else from the system's
    randomness. ``processors`` are the user's. Without ``grammars`` no request has one. ``engine`` is its index in the server.
    """

    def __init__(
        self,
        max_num_seqs: int,
        vocab_size: int,
        device: torch.device,
        seed: int | None = None,
        processors: UserProcessors | None = None,
        grammars: GrammarCompiler | None = None,
        engine: int = 0,
    ) -> None:
        self._rows: list[_Row | None] = [None] * max_num_seqs
        self._keys = KeySource(seed, engine)
        self._has_processors = processors is not None and processors.may_see_any
        self._options: tuple[LogitsState, ...] = (  # in the order in which they change logits
            processors or UserProcessors(),
            LogitBiasState(vocab_size),
            PenaltyState(vocab_size, device),
            TokenBanState(vocab_size, device),
            GrammarState(grammars),
            ThinkingState(),  # last: what it forces nothing else may forbid
        )

    @torch.inference_mode()
    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """``token_ids`` is the prompt and, after a preemption, what was generated. The row must be free.

        Options that do not fit the vocabulary, and a grammar that can't be had, become the row's error when it is sampled.
        """
        assert self._rows[row] is None, f"row {row} was added twice"
        uniforms = None if takes_argmax(sampling) else UniformStream(self._keys.key(sampling.seed))
        num_output_tokens = len(token_ids) - num_prompt_tokens
        is_top_only = not self._has_processors and wants_top_token_only(sampling)
        self._rows[row] = state = _Row(sampling, num_output_tokens, uniforms, _bans_of(sampling), depends_on_output(sampling), is_top_only)
        for option in self._options:
            error = option.add(row, sampling, token_ids, num_prompt_tokens)
            state.error = state.error or error

    def remove(self, row: int) -> None:
        """Forgets a row, which is free again; one that is not there is no error."""
        self._rows[row] = None
        for option in self._options:
            option.remove(row)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Says which tokens were generated and kept, one an entry, before the next ``choose`` of these rows."""
        for row in rows:
            self._known(row).num_output_tokens += 1
        if not self.take_top_only(rows):
            self._append_to_options(rows, token_ids)

    @torch.inference_mode()
    def _append_to_options(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        for option in self._options:
            option.append(rows, token_ids)

    @torch.inference_mode()
    def choose(self, logits: Tensor, rows: Sequence[int], ahead: Sequence[int] = ()) -> ChosenTokens:
        """Chooses one token a line from ``logits`` [L, V] float32, line i for ``rows[i]``. Options change ``logits`` in place.

        ``ahead``, unless empty: how many output tokens are before each line's that were not appended yet; other than 0 only where the row
        does not depend on them.

        The result of a row depends on its own logits, options, seed and number of output tokens only. Changes no state: the
        same call gives the same tokens until ``append``. Does not wait for the device.
        """
        assert logits.dtype == torch.float32, f"sampling is done in float32, not {logits.dtype}"
        known = [self._known(row) for row in rows]
        raw = raw_rows(logits, [row.sampling for row in known])
        failed = {line: row.error for line, row in enumerate(known) if row.error is not None}
        complete: frozenset[int] = frozenset()
        for option in self._options:
            if (outcome := option.apply(logits, rows)) is not None:
                failed = {**outcome.errors, **failed}
                complete |= outcome.complete
        random_rows = [
            RandomRow(line, row.sampling, row.uniforms.at(row.num_output_tokens + (ahead[line] if ahead else 0)))
            for line, row in enumerate(known)
            if row.uniforms is not None
        ]
        bans = [row.bans for row in known]
        has_none = [logits.amax(dim=-1).isneginf()] if any(bans) else []
        chosen = choose_tokens(logits, random_rows)
        scores = raw.score(chosen) if raw is not None else None
        return ChosenTokens(chosen, bans, failed, complete, Arrival([chosen, *has_none]), scores)

    def take_top_only(self, rows: Iterable[int]) -> bool:
        """Whether ``choose`` would take the first maximum of each, and look at nothing else."""
        return all(self._known(row).takes_top_only for row in rows)

    def depends_on_output(self, row: int) -> bool:
        """Whether a token can't be chosen before those that are before it are appended."""
        return self._has_processors or self._known(row).depends_on_output

    def _known(self, row: int) -> _Row:
        state = self._rows[row]
        assert state is not None, f"row {row} was never added"
        return state


def _bans_of(sampling: SamplingParams) -> list[str]:
    names = ("allowed_token_ids", "bad_words", "min_tokens", "logits_processors", "grammar")
    return [name for name in names if getattr(sampling, name)]


def _broken(bans: list[str]) -> RowError:
    """Of a row whose changed logits have no finite maximum; ``bans`` are what forbids every token, if they do."""
    if bans:
        return RowError(f"The request's {' and '.join(bans)} leave no token to choose; it ends here.", is_request_fault=True)
    return RowError("The model gave no usable scores for the next token (NaN or infinite); this request ends here.")
