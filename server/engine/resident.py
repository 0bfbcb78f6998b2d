"""What a device has for its runner: the model and the pages. A sleep takes either away, and nothing is computed until it is back."""

from __future__ import annotations

from collections.abc import Callable

from headway.server.layers.forward import LayerKV
from headway.server.models.base import Model


class Resident:
    """Filled and emptied by the worker, between steps; the runner reads it."""

    def __init__(self, model: Model, kv: list[LayerKV], probe: Callable[[Model], None]) -> None:
        """``probe`` computes one token beside the pages of the requests, and raises if that can't be done."""
        self._model: Model | None = model
        self.kv = kv  # empty while they are taken away, and of a model that needs none
        self._probe = probe

    def give_model(self, model: Model | None) -> None:
        """None takes it away."""
        self._model = model

    @property
    def model(self) -> Model:
        assert self._model is not None, "nothing runs without a model"
        return self._model

    def check_alive(self, cause: Exception) -> None:
        """Raises ``cause`` if not even one harmless token can be computed: the fault is not the requests', then."""
        try:
            self._probe(self.model)
        except Exception:
            raise cause from None
