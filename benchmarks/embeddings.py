"""Texts per second of /v1/embeddings beside transformers on the same texts: `python benchmarks/embeddings.py MODEL_DIR`.

What it is held against is what sentence-transformers does: texts sorted by length, batches padded to their longest, the mean of the last
hidden states, normalised. Both take turns in one run and compute in the same type with as many threads; their vectors are compared.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from headway.server.bench.machine import CpuMeter, describe_machine
from headway.server.bench.prompts import COMMON_WORDS
from headway.server.bench.server_process import ServerProcess, free_port

LEAST_COSINE = 0.999
Vectors = NDArray[np.float32]


class Transformers:
    """The model in this process."""

    def __init__(self, directory: Path, dtype: str, batch_size: int) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self._model = transformers.AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        self._batch_size = batch_size

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            inputs = self._tokenizer([texts[i] for i in batch], padding=True, truncation=True, max_length=256, return_tensors="pt")
            states = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            means = (states * mask).sum(1) / mask.sum(1)
            for i, vector in zip(batch, torch.nn.functional.normalize(means.float()).numpy(), strict=True):
                found[i] = vector
        return np.stack(found)


class Server:
    """A running server, over HTTP as the openai client speaks to it."""

    def __init__(self, url: str, per_request: int, num_clients: int) -> None:
        self._client = httpx.Client(base_url=url, timeout=600)
        self._per_request = per_request
        self._pool = ThreadPoolExecutor(num_clients)

    def embed(self, texts: Sequence[str]) -> Vectors:
        parts = [texts[start : start + self._per_request] for start in range(0, len(texts), self._per_request)]
        return np.concatenate(list(self._pool.map(self._one, parts)))

    def _one(self, texts: Sequence[str]) -> Vectors:
        body = {"input": texts, "encoding_format": "base64"}
        answer = self._client.post("/v1/embeddings", json=body).raise_for_status().json()
        return np.stack([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in answer["data"]])


def main() -> int:
    options = _options()
    console = Console()
    torch.set_num_threads(options.threads)
    port = free_port()
    argv = [sys.executable, "-m", "headway.server.cli", "serve", str(options.model), "--dtype", options.dtype]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with ServerProcess(argv, environment, f"http://127.0.0.1:{port}") as process:
        process.wait_ready(240)
        server = Server(process.url, options.per_request, options.clients)
        local = Transformers(options.model, options.dtype, options.batch_size)
        rows = [_measure(name, texts, local, server, process.pid, options.rounds) for name, texts in _works(options.texts).items()]
    console.print(_table(rows, options))
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "works": rows}, indent=1))
    return 0 if all(row["least_cosine"] > LEAST_COSINE for row in rows) else 1


def _measure(name: str, texts: list[str], local: Transformers, server: Server, pid: int, rounds: int) -> dict[str, float | str]:
    """The medians of rounds in which both take turns."""
    cosines = (server.embed(texts) * local.embed(texts)).sum(1)  # and warmed up
    speeds: dict[str, list[float]] = {"transformers": [], "headway": []}
    others = []
    for i in range(rounds):
        meter = CpuMeter(pid)
        turns: list[tuple[str, Callable[[Sequence[str]], Vectors]]] = [("transformers", local.embed), ("headway", server.embed)]
        for peer, embed in turns if i % 2 else reversed(turns):
            started = time.perf_counter()
            embed(texts)
            speeds[peer].append(len(texts) / (time.perf_counter() - started))
        others.append(meter.read().others)
    ratios = [ours / theirs for ours, theirs in zip(speeds["headway"], speeds["transformers"], strict=True)]
    return {
        "work": name,
        "transformers": statistics.median(speeds["transformers"]),
        "headway": statistics.median(speeds["headway"]),
        "ratio": statistics.median(ratios),
        "least_cosine": float(cosines.min()),
        "others_cpu": statistics.median(others),
    }


def _works(num_texts: int) -> dict[str, list[str]]:
    rng = random.Random(0)
    lengths = {"short (4-24 words)": (4, 24), "mixed (4-200 words)": (4, 200), "long (180-240 words)": (180, 240)}
    return {
        name: [" ".join(rng.choices(COMMON_WORDS, k=rng.randint(*span))) for _ in range(num_texts if span[1] < 100 else num_texts // 4)]
        for name, span in lengths.items()
    }


def _table(rows: list[dict[str, float | str]], options: argparse.Namespace) -> Table:
    title = f"texts/s, {options.dtype}, {options.threads} threads, {options.per_request} texts a request, {options.clients} clients"
    table = Table("work", "transformers", "headway", "ratio", "least cosine", "others' cores", title=title)
    for row in rows:
        numbers = [f"{row[key]:.{digits}f}" for key, digits in (("transformers", 1), ("headway", 1), ("ratio", 2))]
        table.add_row(str(row["work"]), *numbers, f"{row['least_cosine']:.5f}", f"{row['others_cpu']:.2f}")
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a directory with a model whose vectors are normalised means")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of transformers; 32 is sentence-transformers' own")
    parser.add_argument("--per-request", type=int, default=128)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
