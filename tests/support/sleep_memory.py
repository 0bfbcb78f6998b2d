"""A process of its own that measures what an engine gives back asleep: what other tests have left in the allocator is not in it.

`python sleep_memory.py DIRECTORY` makes a model of 96 MiB there and prints bytes as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import psutil
from engine_driver import make_engine, request, run
from tiny_models import make_tiny_model

from headway.server.engine.device import give_back_memory

SHAPE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "head_dim": 128}


def measured(directory: Path) -> dict[str, int]:
    """Resident bytes awake, asleep at each level and awake again, with the sizes of the weights and of a cache that was written to."""
    files = make_tiny_model("llama", directory, **SHAPE)
    engine = make_engine(files, model={"max_model_len": 512}, cache={"kv_cache_memory_bytes": 64 * 2**20})
    for pages in engine._executor._worker.resident.kv:  # type: ignore[attr-defined]
        pages.k.fill_(0)
        pages.v.fill_(0)
    give_back_memory(engine._executor._worker._device)  # type: ignore[attr-defined]
    sizes = {"weights": engine.info.weight_bytes, "cache": engine.info.kv_cache_bytes, "awake": rss()}
    for level in (1, 2):
        engine.sleep(level, "abort", lambda problem: None)
        engine.settle()
        sizes[f"asleep_{level}"] = rss()
        engine.wake_up(None)
        run(engine, [request("r", [5, 6, 7])])
    sizes["woken"] = rss()
    engine.shutdown()
    return sizes


def rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]))))
