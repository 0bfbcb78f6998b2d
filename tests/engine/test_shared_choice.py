"""What ranks with the same layers are told of the tokens that the first of them chose."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.kernels.sampling import BROKEN
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.batch import RowError
from headway.server.engine.choice import Choose, LocalChoice
from headway.server.engine.resident import Resident
from headway.server.engine.sampler import ChosenTokens, SamplingState
from headway.server.engine.shared_choice import LeadingChoice
from headway.server.engine.transfers import Arrival


class _Heard(TensorParallelGroup):
    """Keeps what is told."""

    def broadcast(self, tensor: Tensor) -> Tensor:
        told.append(tensor.tolist())
        return tensor


told: list[list[int]] = []


class _Chosen(LocalChoice):
    """Has the first of three rows fail and a grammar of the last one end, as only the rank that samples knows."""

    def prepare(self, hidden: Tensor, rows: object, lora: object = None, head: object = None) -> Choose:
        token_ids = torch.tensor([5, 6, 7])
        error = RowError("it has no grammar", is_request_fault=True)
        return lambda lines=None, ahead=(): ChosenTokens(token_ids, [[]] * 3, {0: error}, frozenset({2}), Arrival([token_ids]), None)


def test_rows_without_a_token_are_told_as_such() -> None:
    """The other ranks end the drafts behind them as this one does: else they would wait for a word about the next."""
    sampling = SamplingState(3, 10, torch.device("cpu"))
    choice = LeadingChoice(_Chosen(Resident(None, [], lambda model: None), sampling), _Heard(0, 1))  # type: ignore[arg-type]
    chosen = choice.prepare(torch.zeros(3, 4), [0, 1, 2])()
    assert told == [[BROKEN, 6, BROKEN]]
    assert chosen.finish().token_ids == [BROKEN, 6, BROKEN]
