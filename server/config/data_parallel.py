"""Options about several engines in one server."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


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


def gpus_missing(num_engines: int, num_ranks: int, there: str) -> str:
    """Why so many engines, each split over so many ranks, can't run on a machine. ``there``: what it has."""
    if num_ranks == 1:
        return f"--data-parallel-size {num_engines} needs a GPU for each engine, and {there}: lower it, or add --device cpu"
    if num_engines == 1:
        return f"--tensor-parallel-size {num_ranks} needs as many GPUs, and {there}: lower it, or add --device cpu"
    needs = f"--data-parallel-size {num_engines} with --tensor-parallel-size {num_ranks} needs {num_engines * num_ranks} GPUs"
    return f"{needs}, and {there}: lower one of them, or add --device cpu"
