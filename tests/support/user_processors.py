"""Logits processors as users write them: classes in vLLM's two shapes, without its base classes, and functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


class ForceToken:
    """A function for each request that asks for it: only ``force_token`` may come."""

    def __init__(self, config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device

    @classmethod
    def validate_params(cls, params: Any) -> None:
        token = params.extra_args and params.extra_args.get("force_token")
        if token is not None and not isinstance(token, int):
            raise ValueError(f"force_token must be a number, got {token!r}")

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[..., torch.Tensor] | None:
        token = params.extra_args and params.extra_args.get("force_token")
        if token is None:
            return None

        def force(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            if params.extra_args.get("break_at") == len(output_ids):
                raise RuntimeError("broken on purpose")
            forced = torch.full_like(logits, -math.inf)
            forced[token] = 0.0
            return forced

        return force


class CountUp:
    """The batch interface: the k-th token of each request that asks for it is k."""

    def __init__(self, config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.outputs: dict[int, list[int]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for index, params, _, output_ids in batch_update.added:
            if params.extra_args and params.extra_args.get("count_up"):
                self.outputs[index] = output_ids

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for index, output_ids in self.outputs.items():
            logits[index, len(output_ids)] = 1e6
        return logits


def only_prompt_tokens(prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    kept = torch.full_like(logits, -math.inf)
    kept[prompt_ids] = logits[prompt_ids]
    return kept


def never(*token_ids: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
    """With arguments it gives what works on the request."""

    def without(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        logits[list(token_ids)] = -math.inf
        return logits

    return without


def wrong_shape(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    return logits[:3]


class NoProcessor:
    pass


class CantBeMade:
    def __init__(self, *arguments: Any) -> None:
        raise RuntimeError("no licence")

    def new_req_logits_processor(self, params: Any) -> None:
        return None
