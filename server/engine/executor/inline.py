"""The executor of one device: the worker runs in the engine process itself."""

from __future__ import annotations

from headway.server.engine.batch import BatchPlan, BatchResult
from headway.server.engine.worker import Worker


class InlineExecutor:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def execute(self, plan: BatchPlan) -> BatchResult:
        return self._worker.runner.execute(plan)

    def shutdown(self) -> None:
        self._worker.release()
