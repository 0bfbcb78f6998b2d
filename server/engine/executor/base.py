"""What the engine's core asks of an executor, and an executor of a runner."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from headway.server.engine.handle import StepHandle
from headway.server.types import AdapterRef, Grammar, SleepPart


class Runner(Protocol):
    """What computes steps. Plans and results are those of its scheduler: engine/batch.py, engine/pooling/batch.py."""

    def submit(self, plan: Any) -> StepHandle[Any]:
        """Sets a step going behind those that were handed over before; its result may be asked for later. Rows that break are isolated
        in the result. Raises only when nothing works any more."""
        ...


class Executor(Protocol):
    """Where a step's tensors live: in this process, or in workers."""

    def submit(self, plan: Any) -> StepHandle[Any]:
        """As Runner.submit."""
        ...

    def compile_grammar(self, grammar: Grammar) -> Future[Any]:
        """Makes ready for rows with this grammar, beside the steps. The future raises ValueError for one that can't be compiled."""
        ...

    def read_adapter(self, adapter: AdapterRef) -> Future[None]:
        """Reads and checks it, beside the steps, into a copy in the host's memory. The future raises AdapterError."""
        ...

    def drop_adapter(self, adapter_id: int) -> None:
        """Forgets its copy, read or not; it must not be on the device."""
        ...

    def load_adapter(self, adapter_id: int) -> None:
        """From its copy, whose future has come, to a free slot of the device. Raises AdapterError, and then nothing has changed."""
        ...

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees its slot. No row of a later step may have it."""
        ...

    def sleep(self, level: int) -> None:
        """Gives memory back: the KV cache, and at level 1 the weights to the host's memory, at level 2 the weights for good.

        What sleeps already stays as it is. Raises whatever kept it from that, and then nothing has changed.
        """
        ...

    def wake_up(self, part: SleepPart) -> None:
        """Takes the memory of one part that sleeps and fills it; the cache comes back empty. Raises as ``sleep`` does."""
        ...

    def check_alive(self) -> None:
        """Raises what ended a process that computes beside this one. To be called now and then, also while there is nothing to compute."""
        ...

    def shutdown(self) -> None: ...
