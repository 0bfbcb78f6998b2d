"""The logits processors of the user, at work: which of them each row has, and that one which fails ends its own request only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from headway.server.engine.batch import RowError
from headway.server.engine.logits_state import Outcome
from headway.server.engine.processor_loading import LoadedProcessors, RequestView, Step, chosen_step
from headway.server.types import SamplingParams
from headway.server.words import cut

log = logging.getLogger(__name__)

_MAX_SHOWN = 300


@dataclass(slots=True, frozen=True)
class _Row:
    steps: list[tuple[str, Step]]  # by name, in the order in which they work
    output_ids: list[int]


class UserProcessors:
    """See LogitsState. They see the model's own logits: bias, penalties and bans come behind them."""

    def __init__(self, loaded: LoadedProcessors | None = None) -> None:
        self._loaded = loaded or LoadedProcessors()
        self._rows: dict[int, _Row] = {}

    @property
    def may_see_any(self) -> bool:
        """Whether some look at the rows of requests that did not ask for them."""
        return bool(self._loaded.for_all)

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> RowError | None:
        if not self._loaded.for_all and not sampling.logits_processors:
            return None
        request = RequestView(sampling, list(token_ids[:num_prompt_tokens]), list(token_ids[num_prompt_tokens:]))
        steps: list[tuple[str, Step]] = []
        name = ""
        try:
            for name, processor in self._loaded.for_all.items():
                if (step := processor.step_for(request)) is not None:
                    steps.append((name, step))
            for choice in sampling.logits_processors:
                name = choice.name
                steps.append((name, chosen_step(self._loaded.functions, choice, request)))
        except Exception as error:  # the edge to code that is not ours
            return _failed(name, error, is_request_fault=isinstance(error, ValueError))
        if steps:
            self._rows[row] = _Row(steps, request.output_ids)
        return None

    def remove(self, row: int) -> None:
        self._rows.pop(row, None)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if not self._rows:
            return
        for row, token_id in zip(rows, token_ids, strict=True):
            if (known := self._rows.get(row)) is not None:
                known.output_ids.append(token_id)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> Outcome | None:
        if not self._rows:
            return None
        errors = {}
        for line, row in enumerate(rows):
            for name, step in known.steps if (known := self._rows.get(row)) is not None else ():
                try:
                    logits[line] = _checked(step(logits[line]), logits)
                except Exception as error:  # the edge to code that is not ours
                    errors[line] = _failed(name, error)
                    break
        return Outcome(errors)


def _checked(changed: Tensor, logits: Tensor) -> Tensor:
    if not isinstance(changed, Tensor) or changed.shape != logits.shape[1:]:
        told = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise TypeError(f"it must return the logits, a tensor of shape ({logits.shape[1]},), not {told}")
    return changed


def _failed(name: str, error: Exception, *, is_request_fault: bool = False) -> RowError:
    if not is_request_fault:
        log.error("The logits processor %s failed", name, exc_info=error)
    return RowError(cut(f"The logits processor {name} failed: {type(error).__name__}: {error}", _MAX_SHOWN), is_request_fault)
