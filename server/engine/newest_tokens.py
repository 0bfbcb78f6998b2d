"""The token that each row got last, on the device: a step takes it from there that is begun before the host knows it."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.server.engine.rows import AWAITED, LongArray, StepInputs
from headway.server.engine.transfers import upload


class NewestTokens:
    """Of the runner's rows. Nothing here waits for the device."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self._token_ids = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._device = device

    def take(self, token_ids: Tensor, inputs: StepInputs) -> None:
        """Puts them in the place of those of the step's ``token_ids`` [T] that are awaited."""
        if inputs.has_awaited:
            decoding = token_ids[: inputs.num_decodes]
            newest = self._token_ids[upload(torch.from_numpy(inputs.rows[: inputs.num_decodes]), self._device)]
            decoding.copy_(torch.where(decoding == AWAITED, newest, decoding))

    def keep(self, rows: LongArray, chosen: Tensor) -> None:
        """``chosen`` [L] int64 of ``rows`` [L]. A row that got none ends, but may be in the next step already: it must be given a token
        that the model has."""
        self._token_ids[upload(torch.from_numpy(rows), self._device)] = chosen.clamp(min=0)
