"""A model that breaks when the test says so."""

from __future__ import annotations

from typing import Any

import torch

from headway.server.engine.core import EngineCore


class FaultyModel:
    """The real model, but for one token (None: any) that breaks the forward pass of any batch that holds it."""

    def __init__(self, model: Any, bad_token: int | None) -> None:
        self._model, self._bad_token = model, bad_token

    def forward(self, token_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if self._bad_token is None or (token_ids == self._bad_token).any():
            raise RuntimeError("a kernel refused this token")
        result: torch.Tensor = self._model.forward(token_ids, *rest)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def make_faulty(engine: EngineCore, bad_token: int | None) -> None:
    resident = engine._executor._worker.resident  # type: ignore[attr-defined]
    resident.give_model(FaultyModel(resident.model, bad_token))
