"""`headway serve` whose model computes nothing: `modelless_server.py STEP_MS serve MODEL_DIR ...`, for benchmarks of what is around it.

Everything is real but the runner: the API process, the messages, the core, the scheduler with its blocks and prefixes. The token at
position p of a sequence is FIRST_TOKEN + p % NUM_TOKENS, whatever the prompt, so that whoever asks knows the answer.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

from headway.server import cli
from headway.server.engine import engine_process
from headway.server.engine.batch import BatchPlan, BatchResult, RowResult
from headway.server.engine.handle import StepHandle
from headway.server.engine.process import EngineArguments, run_engine

# Of bench/stub_model.py's vocabulary: behind two special tokens and the bytes, merges that are plain words and parts of them.
FIRST_TOKEN, NUM_TOKENS = 258, 128


class StubRunner:
    """See Runner. A step takes ``step_s``, as one on an accelerator: the processor is free meanwhile. 0: as fast as it goes."""

    def __init__(self, *_: Any, step_s: float) -> None:
        self._step_s = step_s
        self._next_step = 0.0
        self._rows: dict[str, list[int]] = {}  # tokens known, tokens computed

    def submit(self, plan: BatchPlan) -> StepHandle[BatchResult]:
        for request_id in plan.removed:
            del self._rows[request_id]
        for new in plan.added:
            self._rows[new.request_id] = [len(new.token_ids), new.num_computed_tokens]
        results = []
        for item in plan.scheduled:
            row = self._rows[item.request_id]
            row[1] += item.num_tokens
            token_ids = [FIRST_TOKEN + row[0] % NUM_TOKENS] if row[1] == row[0] else []
            row[0] += len(token_ids)
            results.append(RowResult(token_ids))
        self._wait()
        return StepHandle.computed(BatchResult(results))

    def _wait(self) -> None:
        """Until the step's end; the time that the engine takes between two steps counts towards the next one, but is not made up for."""
        now = time.perf_counter()
        if self._next_step > now:
            time.sleep(self._next_step - now)
            now = self._next_step
        self._next_step = now + self._step_s


def run_stub_engine(step_s: float, arguments: EngineArguments) -> None:
    """In the place of run_engine, in the engine's process."""
    from headway.server.engine import model_rank  # torch

    model_rank.ModelRunner = functools.partial(StubRunner, step_s=step_s)  # type: ignore[assignment,misc]
    run_engine(arguments)


if __name__ == "__main__":
    step_ms = sys.argv.pop(1)
    engine_process.run_engine = functools.partial(run_stub_engine, float(step_ms) / 1000)
    sys.exit(cli.main(sys.argv[1:]))
