"""A quantised checkpoint as one that has a tensor for each weight: what its format has of a module is read and unpacked as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headway.kernels.int4_layout import awq_columns, unpack_words
from headway.server.errors import ModelSourceError
from headway.server.layers.quant.quantized_values import QuantizedValues
from headway.server.layers.quant.scheme import BLOCK, WeightScheme
from headway.server.loading.checkpoint import Checkpoint, CheckpointTensor

# Endings of tensors that nobody needs: the scales of activations, of which each token has its own here.
_UNNEEDED_ENDINGS = (".input_scale", ".activation_scale", ".input_global_scale", ".output_scale")
_SCALES = ("weight_scale", "weight_scale_inv")
_NAMES = {
    "plain": ("weight", *_SCALES),
    "packed": ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"),
    "awq": ("qweight", "qzeros", "scales"),
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "gptq_v2": ("qweight", "qzeros", "scales", "g_idx"),
}
_OPTIONAL = {"g_idx", "weight_g_idx", "weight_shape", "weight_zero_point", *_SCALES}
Parts = Mapping[str, CheckpointTensor]


class QuantizedCheckpoint:
    """``modules``: those that are quantised, by the checkpoint's names; ``places``: what the model has a place for. Raises ModelSourceError
    where a module lacks something."""

    def __init__(self, checkpoint: Checkpoint, scheme: WeightScheme, modules: Collection[str], places: Collection[str]) -> None:
        self.origin = checkpoint.origin
        self._checkpoint = checkpoint
        self._scheme = scheme
        self._modules = modules
        self._places = places

    def tensors(self) -> list[CheckpointTensor]:
        found: list[CheckpointTensor] = []
        parts: dict[str, dict[str, CheckpointTensor]] = {}
        for tensor in self._checkpoint.tensors():
            module, _, kind = tensor.name.rpartition(".")
            if module in self._modules and kind in _NAMES[self._scheme.layout]:
                parts.setdefault(module, {})[kind] = tensor
            elif not tensor.name.endswith(_UNNEEDED_ENDINGS) and not self._is_empty_bias(tensor, module, kind):
                found.append(tensor)
        return [*found, *(self._weight(module, own) for module, own in parts.items())]

    def _is_empty_bias(self, tensor: CheckpointTensor, module: str, kind: str) -> bool:
        """Some tools give every linear one, of zeros where the model has none."""
        return kind == "bias" and module in self._modules and tensor.name not in self._places and not tensor.read().any()

    def _weight(self, module: str, parts: Parts) -> CheckpointTensor:
        layout = self._scheme.layout
        missing = [name for name in _NAMES[layout] if name not in parts and name not in _OPTIONAL]
        if not any(name in parts for name in _SCALES) and layout in ("plain", "packed"):
            missing.append("weight_scale")
        if layout == "packed" and not self._scheme.is_symmetric and "weight_zero_point" not in parts:
            missing.append("weight_zero_point")
        if self._scheme.has_order and not {"g_idx", "weight_g_idx"} & parts.keys():
            missing.append("weight_g_idx" if layout == "packed" else "g_idx")
        if missing:
            raise ModelSourceError(
                f"The checkpoint {self.origin} has {module}.{next(iter(parts))} without {' and '.join(missing)}, which its "
                f"{self._scheme.method} format needs; copy or download it again."
            )
        read = partial(_READERS[layout], _Module(self.origin, module, parts, self._scheme))

        def done() -> None:
            for tensor in parts.values():
                tensor.done()

        shape = _shape(layout, self._scheme, parts)
        return CheckpointTensor(f"{module}.weight", shape, lambda: read().dequantize(), done, read_blocks=read)


@dataclass(frozen=True, slots=True)
class _Module:
    """The tensors of one quantised module, whose shapes are checked as they are read."""

    origin: str
    name: str
    parts: Parts
    scheme: WeightScheme

    def read(self, kind: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
        tensor = self.parts[kind]
        if tensor.shape != shape:
            raise self.damage(kind, f"has shape {list(tensor.shape)}, and that of its packing is {list(shape)}")
        values = tensor.read()
        if dtypes and values.dtype not in dtypes:
            raise self.damage(kind, f"is {values.dtype}, and should be {dtypes[0]}")
        return values

    def damage(self, kind: str, why: str) -> ModelSourceError:
        return ModelSourceError(
            f"The checkpoint {self.origin} can't be read as {self.scheme.method}: {self.name}.{kind} {why}; check that config and weights "
            "belong together."
        )

    def group_size(self, columns: int) -> int:
        """0 where a row has one group."""
        size = self.scheme.group_size
        return size if size < columns else 0

    def groups(self, kind: str, columns: int) -> Tensor | None:
        """Each column's group where the scheme has an order; each group has as many as the others."""
        if kind not in self.parts:
            return None
        size = self.group_size(columns) or columns
        groups = self.read(kind, (columns,)).long()
        in_order = torch.arange(columns) // size
        if not torch.equal(groups.sort().values, in_order):
            raise self.damage(kind, f"does not give each group {size} columns")
        if self.scheme.has_order:
            return groups
        if not torch.equal(groups, in_order):
            raise self.damage(kind, "gives columns an order, and the config says that there is none")
        return None


def _read_plain(module: _Module) -> QuantizedValues:
    """[N, K] as it is, and scales: one, one a row, or one a block."""
    n, k = module.parts["weight"].shape
    values = module.read("weight", (n, k), torch.float8_e4m3fn if module.scheme.is_float else torch.int8)
    kind = next(name for name in _SCALES if name in module.parts)
    if module.scheme.is_blocked:
        scale = module.read(kind, (-(-n // BLOCK), -(-k // BLOCK)), *_FLOATS)
        return QuantizedValues(values, scale.float(), is_blocked=True)
    shape = module.parts[kind].shape
    if shape not in ((), (1,), (1, 1), (n,), (n, 1)):
        raise module.damage(kind, f"has shape {list(shape)}, and is neither one number nor one for each of {n} rows")
    scale = module.read(kind, shape, *_FLOATS).float().reshape(-1, 1)
    return QuantizedValues(values, scale.expand(n, 1).contiguous())


def _read_packed(module: _Module) -> QuantizedValues:
    """compressed-tensors' words: unsigned numbers along K, zero points along N; without these the middle is 0."""
    bits, (n, words) = module.scheme.bits, module.parts["weight_packed"].shape
    per_word = 32 // bits
    k = _columns_of_packed(module.parts, words * per_word)
    size = module.group_size(k)
    num_groups = -(-k // size) if size else 1
    packed = module.read("weight_packed", (n, -(-k // per_word)), torch.int32)
    values = unpack_words(packed, bits)[:, :k]
    scale = module.read("weight_scale", (n, num_groups), *_FLOATS).float()
    zero = torch.full((n, num_groups), 1 << (bits - 1), dtype=torch.uint8)
    if not module.scheme.is_symmetric:
        stored = module.read("weight_zero_point", (-(-n // per_word), num_groups), torch.int32)
        zero = unpack_words(stored.t(), bits).t()[:n]
    return QuantizedValues(values, scale, zero, size, module.groups("weight_g_idx", k))


def _read_awq(module: _Module) -> QuantizedValues:
    k, words = module.parts["qweight"].shape
    size = module.group_size(k)
    num_groups = -(-k // size) if size else 1
    values = awq_columns(module.read("qweight", (k, words), torch.int32)).t().contiguous()
    zero = awq_columns(module.read("qzeros", (num_groups, words), torch.int32)).t()
    scale = module.read("scales", (num_groups, 8 * words), *_FLOATS).t().float()
    return QuantizedValues(values, scale, zero, size)


def _read_gptq(module: _Module) -> QuantizedValues:
    """Version 1 has zero points less one."""
    bits, (words, n) = module.scheme.bits, module.parts["qweight"].shape
    per_word = 32 // bits
    k = words * per_word
    size = module.group_size(k)
    num_groups = -(-k // size) if size else 1
    values = unpack_words(module.read("qweight", (words, n), torch.int32).t(), bits)
    zero = unpack_words(module.read("qzeros", (num_groups, -(-n // per_word)), torch.int32), bits)[:, :n].t()
    if module.scheme.layout == "gptq":
        zero = zero + 1 & 2**bits - 1
    scale = module.read("scales", (num_groups, n), *_FLOATS).t().float()
    return QuantizedValues(values, scale, zero, size, module.groups("g_idx", k))


_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_READERS: dict[str, Callable[[_Module], QuantizedValues]] = {
    "plain": _read_plain,
    "packed": _read_packed,
    "awq": _read_awq,
    "gptq": _read_gptq,
    "gptq_v2": _read_gptq,
}


def _shape(layout: str, scheme: WeightScheme, parts: Parts) -> tuple[int, ...]:
    """[N, K] of what the tensors hold; that of the tensor itself where it is no matrix, which no weight has."""
    first = parts[_NAMES[layout][0]].shape
    if len(first) != 2 or layout == "plain":
        return first
    per_word = 32 // scheme.bits
    if layout == "packed":
        return first[0], _columns_of_packed(parts, first[1] * per_word)
    return (first[1] * 8, first[0]) if layout == "awq" else (first[1], first[0] * per_word)


def _columns_of_packed(parts: Parts, most: int) -> int:
    """The last word of a row may be filled in part: then ``weight_shape`` tells."""
    tensor = parts.get("weight_shape")
    if tensor is None or tensor.shape != (2,):
        return most
    columns = int(tensor.read()[1])
    return columns if most - 8 < columns <= most else most
