"""The executor of one device: the worker runs in the engine process itself."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from headway.server.engine.handle import StepHandle
from headway.server.engine.lora import AdapterSlots
from headway.server.engine.worker import Worker
from headway.server.types import AdapterRef, Grammar, SleepPart


class InlineExecutor:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def submit(self, plan: Any) -> StepHandle[Any]:
        return self._worker.runner.submit(plan)

    def compile_grammar(self, grammar: Grammar) -> Future[Any]:
        if self._worker.grammars is None:
            raise ValueError("This engine has no tokenizer, and so no grammars.")
        return self._worker.grammars.begin(grammar.source)

    def read_adapter(self, adapter: AdapterRef) -> Future[None]:
        return self._adapters().read(adapter)

    def drop_adapter(self, adapter_id: int) -> None:
        self._adapters().drop(adapter_id)

    def load_adapter(self, adapter_id: int) -> None:
        self._adapters().load(adapter_id)

    def unload_adapter(self, adapter_id: int) -> None:
        self._adapters().unload(adapter_id)

    def sleep(self, level: int) -> None:
        self._worker.sleep(level)

    def wake_up(self, part: SleepPart) -> None:
        if part == "weights":
            self._worker.wake_weights()
        elif part == "kv_cache":
            self._worker.wake_cache()

    def check_alive(self) -> None:
        """There is nobody beside this process."""

    def _adapters(self) -> AdapterSlots:
        assert self._worker.adapters is not None, "only an engine that takes adapters asks for them"
        return self._worker.adapters

    def shutdown(self) -> None:
        self._worker.release()
