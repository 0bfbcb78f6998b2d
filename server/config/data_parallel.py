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


def gpus_missing(num_engines: int, there: str) -> str:
    """Why so many engines can't run on a machine. ``there``: what it has."""
    return f"--data-parallel-size {num_engines} needs a GPU for each engine, and {there}: lower it, or add --device cpu"
