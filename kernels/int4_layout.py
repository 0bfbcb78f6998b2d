"""Weights of 4 or 8 bits in groups, in the one layout that int4_linear takes, and how checkpoints' own layouts are brought into it when
they are loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.checks import check_float, check_shape
from headway.kernels.grouped_layout import GROUP, GroupedValues, RowsInOrder

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of 8 columns is in the lowest 4 bits of a word, in the next, ...
# Weights and bytes of a block.
_GGUF_SIZES = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q4_K": (256, 144),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q5_K": (256, 176),
    "Q8_0": (32, 34),
}


@dataclass(frozen=True, slots=True)
class PackedInt4:
    """An [N, K] weight, ``w[n, order[i]] = scale[g, n] * q[n, i] + offset[g, n]`` with ``g = i // group_size`` and q below 2^bits.

    Columns are cut into chunks of ``2 half``, the last of which is padded. With 8 bits a byte has a column, in their order. With 4 byte
    ``c half + j`` of a row has column ``j`` of chunk c in its low bits and column ``half + j`` in its high ones, so that either half of a
    tile of bytes is a tile of neighbouring columns, all of one group:

        byte      |  0      1   ...  half-1  |  half    ...
        low bits  |  q0     q1  ...  q(h-1)  |  q(2h)   ...
        high bits |  q(h)   ...      q(2h-1) |  q(3h)   ...
    """

    out_features: int  # N
    in_features: int  # K
    group_size: int
    half: int
    weight: Tensor  # [N, ceil(K / 2 half) half bits / 4] uint8
    scale: Tensor  # [G, N] fp32, fp16 or bf16, G = ceil(K / group_size)
    offset: Tensor  # [G, N], the same or another of these dtypes
    order: Tensor | None  # [K] int64; None: columns are in order
    bits: int = 4  # or 8

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.scale.nbytes + self.offset.nbytes + (0 if self.order is None else self.order.nbytes)


def pack_int4(values: Tensor, scale: Tensor, offset: Tensor, group_size: int, order: Tensor | None = None, *, bits: int = 4) -> PackedInt4:
    """values [N, K], integers below 2^bits; scale and offset [G, N]; order [K], see PackedInt4. All on one device, where the result is.

    ``group_size`` is a multiple of 32, or at least K: one scale a row.
    """
    n, k = values.shape
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits}, expected 4 or 8")
    if group_size % 32 and group_size < k:
        raise ValueError(f"group_size is {group_size}; expected a multiple of 32, or at least the {k} columns")
    num_groups = -(-k // group_size)
    for name, tensor in (("scale", scale), ("offset", offset)):
        check_float(name, tensor)
        check_shape(name, tensor, num_groups, n)
    half = _half(group_size, k)
    weight = torch.nn.functional.pad(values.to(torch.uint8), (0, -k % (2 * half)))
    if bits == 4:
        halves = weight.view(n, -1, 2, half)
        weight = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(n, -1)
    return PackedInt4(n, k, group_size, half, weight.contiguous(), scale.contiguous(), offset.contiguous(), order, bits)


class Int4Packer(RowsInOrder):
    """Arranges an [N, K] weight in groups of 32 for ``int4_linear``. The interface is that of kernels/grouped_matmul.py GroupedPacker.
    ``order``: see PackedInt4."""

    def __init__(self, num_rows: int, num_columns: int, bits: int, device: torch.device, order: Tensor | None = None) -> None:
        super().__init__(num_rows, num_columns, bits)
        half = _half(GROUP, num_columns)
        weight = torch.empty((num_rows, -(-num_columns // (2 * half)) * half * bits // 4), dtype=torch.uint8, device=device)
        scale, offset = (torch.empty((-(-num_columns // GROUP), num_rows), dtype=torch.float16, device=device) for _ in range(2))
        self.packed = PackedInt4(num_rows, num_columns, GROUP, half, weight, scale, offset, order, bits)

    def put(self, rows: GroupedValues) -> None:
        """The next rows, on the weight's device, which may be freed then. Raises ValueError where they do not fit."""
        self._check(rows)
        if not len(rows.values):
            return
        own = pack_int4(rows.values, rows.scale.t(), rows.offset.t(), GROUP, bits=self.packed.bits)
        span = slice(self._num_put, self._num_put + len(rows.values))
        self.packed.weight[span] = own.weight
        self.packed.scale[:, span], self.packed.offset[:, span] = own.scale, own.offset
        self._num_put = span.stop


def unpack_int4(packed: PackedInt4) -> Tensor:
    """The values [N, K] uint8 in packed order: what pack_int4 was given."""
    n, k = packed.out_features, packed.in_features
    if packed.bits == 8:
        return packed.weight[:, :k]
    chunks = packed.weight.view(n, -1, packed.half)
    return torch.stack((chunks & 15, chunks >> 4), dim=2).view(n, -1)[:, :k]


def pack_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> PackedInt4:
    """AWQ's GEMM format (Lin et al., arXiv:2306.00978): qweight [K, N / 8] and qzeros [G, N / 8] int32, scales [G, N]."""
    check_shape("qzeros", qzeros, scales.shape[0], qweight.shape[1])
    group_size = qweight.shape[0] // scales.shape[0]
    values, zeros = (awq_columns(words) for words in (qweight, qzeros))
    return pack_int4(values.t(), scales, _offset(scales, zeros), group_size)


def pack_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None = None, *, zeros_are_less_one: bool = True
) -> PackedInt4:
    """GPTQ (Frantar et al., arXiv:2210.17323): qweight [K / 8, N] and qzeros [G, N / 8] int32, scales [G, N], g_idx [K] int32.

    ``g_idx`` is each input's group; where it is not in order (act-order), columns are sorted by group and inputs permuted alike.
    ``zeros_are_less_one``: the first version of the format, where zero points are stored less one; the second stores them as they are.
    """
    num_columns = 8 * qweight.shape[0]
    check_shape("qweight", qweight, -1, scales.shape[1])
    group_size = -(-num_columns // scales.shape[0])
    values, zeros = unpack_words(qweight.t(), 4).t(), unpack_words(qzeros, 4)
    if zeros_are_less_one:
        zeros = zeros + 1 & 15
    order = None
    in_order = torch.arange(num_columns, device=qweight.device) // group_size
    if g_idx is not None and not torch.equal(g_idx.long(), in_order):
        order = torch.argsort(g_idx, stable=True)
        if not torch.equal(g_idx[order].long(), in_order):
            raise ValueError(f"g_idx does not give each of {len(scales)} groups {group_size} inputs")
        values = values[order]
    return pack_int4(values.t(), scales, _offset(scales, zeros), group_size, order)


def pack_gguf(blocks: Tensor, kind: str) -> PackedInt4:
    """GGUF's Q4_0, Q4_1 and Q4_K, and in 8 bits Q5_0, Q5_1, Q5_K and Q8_0: blocks [N, bytes of a row] uint8, as they are in the file.
    Scales become fp16."""
    weight = gguf_groups(blocks, kind)
    return pack_int4(weight.values, weight.scale.t(), weight.offset.t(), GROUP, bits=weight.bits)


def gguf_groups(blocks: Tensor, kind: str) -> GroupedValues:
    """Of blocks as ``pack_gguf`` takes them."""
    if kind not in _GGUF_SIZES:
        raise ValueError(f"{kind!r} is not one of {', '.join(_GGUF_SIZES)}")
    size, num_bytes = _GGUF_SIZES[kind]
    if blocks.dtype != torch.uint8 or blocks.shape[1] % num_bytes:
        raise ValueError(f"blocks is {blocks.dtype} {tuple(blocks.shape)}; rows of {kind} are uint8, {num_bytes} bytes for {size} weights")
    rows = blocks.reshape(len(blocks), -1, num_bytes)
    scale = _halves(rows[:, :, 0:2])
    if kind == "Q8_0":
        return GroupedValues((rows[:, :, 2:] ^ 128).flatten(1), scale.half(), (-128 * scale).half(), 8)  # signed numbers, plus 128
    num_low = size // 2
    low = rows[:, :, num_bytes - num_low :].reshape(len(blocks), -1, min(size, 64) // 2)  # low bits of bytes first, then high
    values = torch.stack((low & 15, low >> 4), dim=2).view(len(blocks), -1, size // GROUP, GROUP)
    bits = 4
    if kind.startswith("Q5"):
        bits = 8
        values = values | _fifth_bits(rows[:, :, num_bytes - num_low - size // 8 : num_bytes - num_low], size) << 4
    if kind.endswith("_0"):
        offset = (-8 if bits == 4 else -16) * scale
    elif kind.endswith("_1"):
        offset = _halves(rows[:, :, 2:4])
    else:
        scales, offsets = _k_scales(rows[:, :, 4:16])
        offset = (-_halves(rows[:, :, 2:4])[:, :, None] * offsets).flatten(1)
        scale = (scale[:, :, None] * scales).flatten(1)
    return GroupedValues(values.flatten(1), scale.half(), offset.half(), bits)


def awq_columns(words: Tensor) -> Tensor:
    """[rows, N / 8] int32 in AWQ's order -> [rows, N] uint8."""
    shift = [4 * _AWQ_ORDER.index(column) for column in range(8)]
    return _shifted(words, torch.tensor(shift, dtype=torch.int32, device=words.device), 15)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """[rows, W] int32, lowest bits first -> [rows, W * 32 / bits] uint8; ``bits`` 4 or 8."""
    return _shifted(words, torch.arange(0, 32, bits, dtype=torch.int32, device=words.device), 2**bits - 1)


def _half(group_size: int, num_columns: int) -> int:
    """Of a chunk's columns, see PackedInt4."""
    return 64 if group_size % 64 == 0 or group_size >= num_columns else 32


def _shifted(words: Tensor, shifts: Tensor, mask: int) -> Tensor:
    return (words[:, :, None] >> shifts & mask).to(torch.uint8).reshape(len(words), -1)


def _offset(scales: Tensor, zeros: Tensor) -> Tensor:
    """``-scale * zero``, in fp16 only if the scales are: in bf16 it would be wrong by up to 0.03 steps."""
    return (-scales.float() * zeros).to(torch.float16 if scales.dtype == torch.float16 else torch.float32)


def _halves(two_bytes: Tensor) -> Tensor:
    """[..., 2] uint8 -> [...] fp32."""
    return two_bytes.contiguous().view(torch.float16)[..., 0].float()


def _fifth_bits(high: Tensor, size: int) -> Tensor:
    """Of a block's weights [N, blocks, groups, 32], 0 or 1: in the one group of a small block a bit of 4 bytes each, lowest first; in a
    large one bit g of byte j is that of weight j of group g."""
    shifts = torch.arange(8, dtype=torch.uint8, device=high.device)
    if size == GROUP:
        return (high[:, :, :, None] >> shifts & 1).flatten(2)[:, :, None]
    return high[:, :, None, :] >> shifts[:, None] & 1


def _k_scales(header: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes -> 8 scales and 8 offsets of 6 bits: four of each as low 6 bits, the others in pieces of 4 and 2."""
    first, second, third = header[:, :, 0:4], header[:, :, 4:8], header[:, :, 8:12]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=2)
    offsets = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=2)
    return scales.float(), offsets.float()
