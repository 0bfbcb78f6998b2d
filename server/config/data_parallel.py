"""Options about several engines in one server."""

from __future__ import annotations

from headway.server.config.fields import Topic, option
from headway.server.config.parallel import ParallelConfig


class DataParallelConfig(Topic):
    """Data parallel."""

    data_parallel_size: int = option(
        1,
        "Engine processes behind the port, each with the whole model, a KV cache of its own, and a GPU or its share of the cores; "
        "a request goes to one of them, by their load and by what is in their caches.",
        ge=1,
        le=64,
        short=("-dp",),
    )

    def engine_name(self, index: int) -> str:
        """Of an engine in the log."""
        return f"engine-{index}" if self.data_parallel_size > 1 else "engine"


def gpus_missing(num_engines: int, parallel: ParallelConfig, there: str) -> str:
    """Why so many engines, each split as ``parallel`` says, can't run on a machine. ``there``: what it has."""
    if parallel.num_ranks == 1:
        return f"--data-parallel-size {num_engines} needs a GPU for each engine, and {there}: lower it, or add --device cpu"
    asked = [f"--data-parallel-size {num_engines}", *parallel.asked] if num_engines > 1 else parallel.asked
    if len(asked) == 1:
        return f"{asked[0]} needs as many GPUs, and {there}: lower it, or add --device cpu"
    needs = f"{asked[0]} with {' and '.join(asked[1:])} needs {num_engines * parallel.num_ranks} GPUs"
    return f"{needs}, and {there}: lower one of them, or add --device cpu"
