"""The demo model in each format that its weights can have: bytes, perplexity, decode speed. `python benchmarks/formats.py --help`.

Perplexity is of the English text that ships with the tests. The reference multiplies the same weights, dequantised, in fp32 by torch, with
activations as they are. What is for GPUs is computed here by the plain products that judge a GPU's, so it has no speed. A step's time is
that of one thread's CPU, the least of all rounds, in which formats take turns: other work on the machine moves it little.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from demo_model import demo_files
from forward_batches import Sequence as Running
from forward_batches import Stepper
from perplexity import english_tokens, log_probabilities, perplexity

from headway.kernels.hadamard import block_of, spread_blocks
from headway.kernels.linear import linear
from headway.kernels.quant_matmul import PackedInt8
from headway.kernels.reference import quant_matmul as reference_int8
from headway.server.distributed.groups import SINGLE
from headway.server.layers.quant import int8
from headway.server.layers.quant.rounding import round_weight
from headway.server.layers.quant.scheme import ROUNDED_SCHEMES, WeightScheme
from headway.server.loading import loader
from headway.server.loading.checkpoint import CheckpointTensor
from headway.server.loading.gguf import GgufCheckpoint
from headway.server.loading.loader import LoadedModel, Quantization, load_model

_PROMPT = 32  # tokens before those that are timed
_BATCHES = (1, 32)


@dataclass(frozen=True, slots=True)
class Format:
    option: str  # that gives it
    device: str
    quantization: Quantization
    dtype: str = "float32"
    pages: torch.dtype = torch.float32


FORMATS = (
    Format("--dtype float32", "CPU, GPU", "none"),
    Format("--dtype bfloat16", "CPU, GPU", "none", "bfloat16", torch.bfloat16),
    Format("--dtype bfloat16 --kv-cache-dtype int8", "CPU, GPU", "none", "bfloat16", torch.int8),
    Format("--quantization int8", "CPU", "int8"),
    Format("--quantization gguf", "CPU", "gguf", pages=torch.bfloat16),
    Format("--quantization int4", "CPU", "int4", pages=torch.bfloat16),
    Format("--quantization int4 --kv-cache-dtype int8", "CPU", "int4", pages=torch.int8),
    Format("--quantization int8", "GPU", "w8a8"),
    Format("--quantization fp8", "GPU", "fp8"),
    Format("--quantization int4", "GPU", "w4a16"),
    Format("--quantization gguf", "GPU", "gguf_a16"),
)


def load(quantization: Quantization, dtype: str) -> LoadedModel:
    device = torch.device("cpu")
    return load_model(
        demo_files(), dtype=dtype, device=device, quantization=quantization, load_format="auto", group=SINGLE, seed=0, max_model_len=2048
    )


def reference_perplexity(quantization: Quantization, token_ids: list[int]) -> float:
    """In fp32, with weights that were rounded and brought back."""
    scheme = ROUNDED_SCHEMES.get(quantization)
    if quantization == "int8":  # which rotates weights before they are rounded
        with patch.object(int8, "keep_int8", _kept_plain), patch.object(int8, "int8_linear", _exact_product):
            return perplexity(log_probabilities(load("int8", "float32").model, token_ids), token_ids)
    changed = nullcontext() if scheme is None else patch.object(loader, "GgufCheckpoint", partial(_Dequantized, scheme))
    with changed:
        loaded = load("none", "float32")
    return perplexity(log_probabilities(loaded.model, token_ids), token_ids)


def _kept_plain(values: Tensor, scale: Tensor, block: int) -> PackedInt8:
    num_rows, num_columns = values.shape
    return PackedInt8(num_rows, num_columns, (values, scale), reference_int8, block)


def _exact_product(x: Tensor, packed: PackedInt8, bias: Tensor | None) -> Tensor:
    values, scale = packed.data
    return linear(spread_blocks(x, packed.block), values * scale[:, None], bias)


class _Dequantized(GgufCheckpoint):
    def __init__(self, scheme: WeightScheme, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._rounds_to = scheme

    def tensors(self) -> list[CheckpointTensor]:
        return [self._rounded(tensor) if _is_linear(tensor) else tensor for tensor in super().tensors()]

    def _rounded(self, tensor: CheckpointTensor) -> CheckpointTensor:
        block = block_of(tensor.shape[1], self._rounds_to.spread)

        def read() -> Tensor:
            return spread_blocks(round_weight(tensor.read(), self._rounds_to, block).dequantize(), block)  # spread twice, it is as it was

        return replace(tensor, read=read, span=None)


def _is_linear(tensor: CheckpointTensor) -> bool:
    return len(tensor.shape) == 2 and tensor.name.startswith("blk.")


def step_ms(loaded: LoadedModel, pages: torch.dtype, batch: int, num_steps: int, token_ids: list[int]) -> float:
    """A decode step of ``batch`` sequences, the least of ``num_steps``."""
    stepper = Stepper(loaded.model, num_blocks=8 * batch, block_size=16, dtype=pages)
    running = [Running(token_ids[i : i + _PROMPT + num_steps]) for i in range(batch)]
    for sequence in running:
        stepper.step([(sequence, _PROMPT)])

    def timed(step: Callable[[], list[Tensor]]) -> float:
        started = time.thread_time()
        step()
        return (time.thread_time() - started) * 1e3

    return min(timed(lambda: stepper.step([(sequence, 1) for sequence in running])) for _ in range(num_steps))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of the timed steps; 0 leaves speed out")
    parser.add_argument("--steps", type=int, default=16, help="of a round")
    parser.add_argument("--only", default="", help="what the option of a row ends with, such as int8 or bfloat16")
    asked = parser.parse_args(arguments)
    formats = [form for form in FORMATS if form.option.endswith(asked.only)]
    torch.set_num_threads(1)
    token_ids = english_tokens()
    rows: dict[Format, list[str]] = {}
    timed: dict[Format, LoadedModel] = {}
    for form in formats:
        loaded = load(form.quantization, form.dtype)
        found = perplexity(log_probabilities(loaded.model, token_ids, dtype=form.pages).float(), token_ids)
        reference = reference_perplexity(form.quantization, token_ids)
        size = f"{loaded.weight_bytes / 1e6:.1f}"
        rows[form] = [f"`{form.option}`", form.device, size, f"{found:.2f}", f"{reference:.2f}", f"{found / reference - 1:+.2%}"]
        print(" | ".join(rows[form]), file=sys.stderr, flush=True)
        if form.device != "GPU":
            timed[form] = loaded
    best = {(form, batch): float("inf") for form in timed for batch in _BATCHES}
    for _ in range(asked.rounds):
        for form, batch in best:
            best[form, batch] = min(best[form, batch], step_ms(timed[form], form.pages, batch, asked.steps, token_ids))
    print("| option | on a | MB of weights | perplexity | of the reference | difference | CPU ms a token, 1 at a time | 32 at a time |")
    print("|---|---|---|---|---|---|---|---|")
    for form, row in rows.items():
        speeds = [f"{best[form, batch] / batch:.2f}" if form in timed and asked.rounds else "-" for batch in _BATCHES]
        print(f"| {' | '.join([*row, *speeds])} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
