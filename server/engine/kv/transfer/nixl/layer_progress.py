"""How far a step has come whose blocks somebody reads meanwhile. See LayerWatcher."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch


class LayerProgress(Protocol):
    """``on_layer`` on the step's thread, ``num_done`` on any other."""

    def on_layer(self) -> None: ...

    @property
    def num_done(self) -> int:
        """Layers whose pages are written."""
        ...


class HostProgress:
    """A layer is done when the call returns that computes it."""

    def __init__(self) -> None:
        self.num_done = 0

    def on_layer(self) -> None:
        self.num_done += 1


class DeviceProgress:
    """The host runs ahead of the device, which passes an event behind each layer."""

    def __init__(self) -> None:
        self._ahead: deque[torch.cuda.Event] = deque()
        self._num_done = 0

    def on_layer(self) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._ahead.append(event)

    @property
    def num_done(self) -> int:
        """To be asked by one thread at a time."""
        while self._ahead and self._ahead[0].query():  # type: ignore[no-untyped-call]
            self._ahead.popleft()
            self._num_done += 1
        return self._num_done
