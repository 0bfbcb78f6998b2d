"""How a checkpoint has its linear weights quantised, as its config.json says it: without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

# The tensors of a linear: [N, K] plain with scales; [N, K / 8] in words along K; AWQ's, the two versions of GPTQ's, and bitsandbytes'.
# mxfp4's are in stacks of experts: see models/expert_names.py.
Layout = Literal["plain", "packed", "awq", "gptq", "gptq_v2", "bitsandbytes", "mxfp4"]
# The product that computes with the weights as they are.
Product = Literal["groups", "int8", "fp8", "mxfp4"]

_WIDE = 2048  # channels between the layers
BLOCK = 128  # rows and columns that share a scale in blocked fp8
_REGEX = "re:"


@dataclass(frozen=True, slots=True)
class WeightScheme:
    method: str  # quant_method of config.json
    layout: Layout
    bits: int  # 4 or 8
    is_float: bool = False  # e4m3; of 4 bits e2m1
    group_size: int = 0  # columns that share a scale; 0: all of a row
    is_blocked: bool = False  # float: scales are of blocks of 128 x 128
    is_symmetric: bool = True
    has_order: bool = False  # columns of a group are not neighbours: act-order
    rounds_input: bool = False  # activations are rounded to the weights' type, a scale a token (or 128 of its channels: blocks)
    spread: int = 1  # integers: so many channels of an input are spread over one another where they divide it, see kernels/hadamard.py
    scale_bytes: int = 4  # of a scale, and of an offset, of weights that are kept in groups
    targets: tuple[str, ...] = ("Linear",)
    ignored: tuple[str, ...] = ()
    has_fp8_cache: bool = False  # keys and values are meant to be kept in fp8

    @property
    def name(self) -> str:
        kind = f"{self.bits}-bit{' float' if self.is_float else ''} weights"
        return f"{self.method} ({kind}, 8-bit activations)" if self.rounds_input else f"{self.method} ({kind})"

    @property
    def grouped_name(self) -> str:
        """Of a CPU's product of such weights in groups of 32."""
        return f"{self.method} ({self.bits}-bit weights, 8-bit activations)"

    @property
    def product(self) -> Product | None:
        """None: weights are dequantised when they are loaded."""
        if self.layout == "bitsandbytes":
            return None  # its numbers are indices of a table
        if self.is_float:
            return "fp8" if self.bits == 8 else "mxfp4"
        if self.rounds_input:
            return "int8"
        return "groups"

    @property
    def is_groupable(self) -> bool:
        """Whether the weights are the same in 4 bits in groups of 32, with a scale and an offset in fp16."""
        return self.product == "groups" and self.bits == 4

    @property
    def step(self) -> int:
        """Columns that are not cut apart: those that share a scale, but for one of a whole row."""
        return BLOCK if self.is_blocked else max(self.group_size, 1)

    def quantizes(self, module: str) -> bool:
        """``module`` as the checkpoint calls it, such as "model.layers.0.mlp.down_proj"."""
        return any(_names(target, module, self.method) for target in self.targets) and not any(
            _names(ignored, module, self.method) for ignored in self.ignored
        )

    def keeps(self, rows: Sequence[int]) -> bool:
        """Whether a weight of parts with so many ``rows`` can be kept: blocks of one part don't reach into the next."""
        return self.product is not None and not (self.is_blocked and any(count % BLOCK for count in rows[:-1]))

    def num_bytes(self, rows: Sequence[int], columns: int) -> int:
        """Of a weight that is kept. Parts whose columns are in one order are kept as one weight, as the usual tools write them."""
        num_rows = sum(rows)
        if self.product == "int8":
            return num_rows * columns + 4 * num_rows
        if self.product == "fp8":
            num_scales = -(-num_rows // BLOCK) * -(-columns // BLOCK) if self.is_blocked else num_rows
            return num_rows * columns + 4 * num_scales
        if self.product == "mxfp4":
            return num_rows * (-(-columns // 64) * 32 + -(-columns // 32))
        group = self.group_size or columns
        half = 64 if group % 64 == 0 or group >= columns else 32  # see kernels/int4_layout.py
        scales = 2 * -(-columns // group) * num_rows * self.scale_bytes
        return num_rows * -(-columns // (2 * half)) * half * self.bits // 4 + scales + (8 * columns if self.has_order else 0)


# A quantised GGUF's weights on a GPU. Those whose blocks are not of 4 bits have 8.
GGUF_GROUPS = WeightScheme("gguf", "plain", 4, group_size=32, is_symmetric=False, scale_bytes=2)
GGUF_NAME = "GGUF blocks (4- or 8-bit weights)"
# gpt-oss's experts as they are published (OCP Microscaling Formats, 1.0).
MXFP4 = WeightScheme("mxfp4", "mxfp4", 4, is_float=True, group_size=32, targets=("experts",))

# What weights are rounded to when they are loaded, by the plan's name of it. Groups of 4 bits are small, since no data tells which weights
# matter: 64 are the fewest that a GPU's product takes in its widest tiles, 32 are those of a CPU's.
ROUNDED_SCHEMES = {
    "w8a8": WeightScheme("int8", "plain", 8, rounds_input=True, spread=128),
    "w4a16": WeightScheme("int4", "plain", 4, group_size=64, is_symmetric=False, scale_bytes=2),
    "fp8": WeightScheme("fp8", "plain", 8, is_float=True, rounds_input=True),
    "int4": WeightScheme("int4", "plain", 4, group_size=32, is_symmetric=False, scale_bytes=2),
}


def rounded_scheme(quantization: str, hidden_size: int) -> WeightScheme | None:
    """What ``--quantization`` has the weights of a model rounded to as they are loaded; None where it does not.

    Activations are rounded to e4m3 in wide models alone: 3 bits of fraction take 1.2% of perplexity from the demo model (576 channels;
    2026-11), whose speed no product decides, and next to nothing from models of 8 billion weights and more (Kurtic et al.,
    arXiv:2411.02355).
    """
    scheme = ROUNDED_SCHEMES.get(quantization)
    if scheme is not None and scheme.is_float and hidden_size < _WIDE:
        return replace(scheme, rounds_input=False)
    return scheme


def cuts_between_groups(scheme: WeightScheme, columns: Sequence[int], size: int) -> bool:
    """Whether ``size`` parts of so many columns keep their groups whole. What has an order of its own has them all over."""
    return not scheme.has_order and all(count // size % scheme.step == 0 for count in columns)


def share_of_expert(size: int, step: int, rank: int, num_ranks: int) -> tuple[int, int] | None:
    """(first, count) of the ``size`` inner channels of an expert that a rank has: as many as each other, or where that would cut groups of
    ``step`` apart whole groups, one more on some ranks, the first among them. None where groups are too few, or do not fill it."""
    if size % num_ranks == 0 and size // num_ranks % step == 0:
        return rank * (size // num_ranks), size // num_ranks
    num_groups = size // step
    if size % step or num_groups < num_ranks:
        return None
    first, end = (-(-at * num_groups // num_ranks) for at in (rank, rank + 1))
    return first * step, (end - first) * step


def _names(pattern: str, module: str, method: str) -> bool:
    if method == "compressed-tensors":
        if pattern.startswith(_REGEX):
            return re.match(pattern.removeprefix(_REGEX), module) is not None
        return pattern in ("Linear", module)
    # A module, one that it is in, or the last words of either.
    return pattern == "Linear" or f".{pattern}." in f".{module}."


def dequantized_name(name: str, scheme: WeightScheme | None) -> str:
    """Of weights in the type ``name`` that a checkpoint with ``scheme`` is loaded as."""
    return name if scheme is None else f"{name}, dequantised from {scheme.name}"


def itemsize_of_scales(checkpoint_dtype: str) -> int:
    """Those of fp16 models are fp16; others keep their range, and an offset its last bits, in fp32."""
    return 2 if checkpoint_dtype == "float16" else 4
