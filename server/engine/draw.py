"""From the sampling options of a step's rows to the tensors that the sampling kernel takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.sampling import Draws, sample_tokens
from headway.server.engine.penalties import needs_penalties
from headway.server.engine.transfers import upload
from headway.server.types import SamplingParams

_DEFAULTS = SamplingParams()
# Of a row that takes the most likely token. Any other option does, or asks for logprobs.
_CHANGE_NO_LOGITS = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "seed"),
        *("max_tokens", "eos_token_ids", "stop_token_ids", "ignore_eos", "repetition"),  # when it ends
        "prompt_logprobs",  # of other positions
    )
)


@dataclass(slots=True, frozen=True)
class RandomRow:
    """A row to draw for. ``index`` is its line in the logits, ``uniform`` in [0, 1) its randomness."""

    index: int
    sampling: SamplingParams
    uniform: float


def takes_argmax(sampling: SamplingParams) -> bool:
    """True if the row's token is its most likely one, so that no randomness is used: greedy, or top_k 1."""
    return sampling.is_greedy or sampling.top_k == 1


def wants_top_token_only(sampling: SamplingParams) -> bool:
    """True if the row's token is the first maximum of the model's own logits, and nothing else of these is looked at."""
    others = (name for name in sampling.__struct_fields__ if name not in _CHANGE_NO_LOGITS)
    return takes_argmax(sampling) and all(getattr(sampling, name) == getattr(_DEFAULTS, name) for name in others)


def depends_on_output(sampling: SamplingParams) -> bool:
    """True if options change the logits by the output tokens before them, however far back."""
    options = (sampling.bad_words, sampling.min_tokens, sampling.grammar, sampling.thinking, sampling.logits_processors)
    return needs_penalties(sampling) or any(options)


def choose_tokens(logits: Tensor, random_rows: Sequence[RandomRow]) -> Tensor:
    """Token ids [L] int64 on the device of ``logits`` [L, V] float32: drawn for ``random_rows``, the argmax for the others.

    A row without a finite maximum gets BROKEN; it does not touch the others. On CUDA nothing here waits for the device.
    """
    return sample_tokens(logits, _draws(random_rows, logits.shape[1], logits.device) if random_rows else None)


@torch.inference_mode()
def warm_up_choice(vocab_size: int, device: torch.device) -> None:
    """Has what ``choose_tokens`` runs on a GPU compiled: of random rows up to 6 s, in which no request would go on."""
    choose_tokens(torch.zeros(1, vocab_size, device=device), [RandomRow(0, SamplingParams(temperature=1.0, top_p=0.5, top_k=2), 0.5)])


def _draws(rows: Sequence[RandomRow], vocab_size: int, device: torch.device) -> Draws:
    params = [row.sampling for row in rows]
    top_k = [p.top_k if 0 < p.top_k < vocab_size else vocab_size for p in params]
    lines, limits = upload(torch.tensor([[row.index for row in rows], top_k]), device)
    table = [[p.temperature for p in params], [p.top_p for p in params], [p.min_p for p in params], [row.uniform for row in rows]]
    temperature, top_p, min_p, uniform = upload(torch.tensor(table, dtype=torch.float64), device)
    return Draws(lines, limits, temperature, top_p, min_p, uniform)
