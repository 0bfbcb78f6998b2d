"""Which drafts of a step are right: a token is chosen at each of their places as if there were no drafts, up to the first that differs.

This is rejection sampling (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023; Chen et al., "Accelerating
Large Language Model Decoding with Speculative Sampling", 2023) of a proposal that is certain of its draft: x is accepted with the
probability p(x) that the model gives it, and what is chosen in its place otherwise has the distribution of p without x. Since the choice at
an output position draws that position's own number, the tokens are not only as likely as without drafts: they are the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headway.kernels.sampling import BROKEN
from headway.server.engine.batch import RowError
from headway.server.engine.choice import Choose, TokenChoice
from headway.server.engine.sampler import SampledTokens
from headway.server.types import TokenLogprobs


@dataclass(slots=True)
class _Run:
    """The lines of a request: the next one to look at, and the first that is another's."""

    at: int
    end: int


class Verification:
    """A step with drafts, under way. Line i is a token of row ``rows[i]``, of which ``offsets[i]`` lines stand before it."""

    def __init__(self, choice: TokenChoice, choose: Choose, rows: Sequence[int], offsets: Sequence[int], token_ids: Sequence[int]) -> None:
        """``token_ids`` are those that were computed: where the offset is above 0, drafts. Sets going all lines at once but those that
        depend on a draft's being right by more than being looked at."""
        self._choice = choice
        self._choose = choose
        self._rows = rows
        self._token_ids = token_ids
        self._starts = [line for line, offset in enumerate(offsets) if offset == 0]
        self._runs = [_Run(start, end) for start, end in zip(self._starts, [*self._starts[1:], len(rows)], strict=True)]
        self._first = [line for line, row in enumerate(rows) if offsets[line] == 0 or not choice.depends_on_output(row)]
        self._chosen = choose(self._first, [offsets[line] for line in self._first])

    def finish(self) -> SampledTokens:
        """Waits for the step, and appends what is kept to the rows of the choice. Dropped are the lines behind a draft that was wrong, and
        a line behind another that got no token: the next step finds that again."""
        lines, sampled = self._first, self._chosen.finish()
        whole = _Lines(len(self._rows))
        kept: list[int] = []
        while True:
            whole.take(lines, sampled)
            told = [line for run in self._runs for line in self._advance(run, whole)]
            self._choice.append([self._rows[line] for line in told], [whole.token_ids[line] for line in told])
            kept += told
            lines = [run.at for run in self._runs if run.at < run.end]
            if not lines:
                break
            sampled = self._choose(lines, [0] * len(lines)).finish()
        dropped = frozenset(range(len(self._rows))) - {*kept, *self._starts}
        return SampledTokens(whole.token_ids, whole.logprobs, whole.errors, frozenset(whole.complete), dropped)

    def _advance(self, run: _Run, whole: _Lines) -> list[int]:
        """The next lines of a run that are known and kept; the run ends behind the first token that differs from its draft."""
        start = run.at
        while run.at < run.end and run.at in whole.known:
            token_id = whole.token_ids[run.at]
            if token_id == BROKEN:
                run.end = run.at
                break
            run.at += 1
            if run.at < run.end and self._token_ids[run.at] != token_id:
                run.end = run.at
        return list(range(start, run.at))


class _Lines:
    """What is known of each line of a step."""

    def __init__(self, count: int) -> None:
        self.known: set[int] = set()
        self.token_ids = [BROKEN] * count
        self.logprobs: list[TokenLogprobs | None] = [None] * count
        self.errors: dict[int, RowError] = {}
        self.complete: set[int] = set()

    def take(self, lines: Sequence[int], sampled: SampledTokens) -> None:
        self.known.update(lines)
        for at, line in enumerate(lines):
            self.token_ids[line], self.logprobs[line] = sampled.token_ids[at], sampled.logprobs[at]
        self.errors.update({lines[at]: error for at, error in sampled.errors.items()})
        self.complete.update(lines[at] for at in sampled.complete)
