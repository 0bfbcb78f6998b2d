"""Loads the compiled CPU kernels that fit this processor, if the package was built with them.

They are built for baseline x86-64 (or any other architecture), AVX2, AVX-512, and AVX-512 with 8-bit products (VNNI), with bf16 ones
too; the best that the processor runs is taken. Without a compiler at install time there are none, and the torch implementations
beside this package serve.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

# Of the functions and structures below: as kInterface in common.h, and raised with it when one of them changes.
INTERFACE = 8
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class RopeShape(ctypes.Structure):
    """As in kernels.cpp; strides in elements."""

    _fields_ = [
        (name, _INT)
        for name in ("tokens", "q_heads", "kv_heads", "dim", "rotary_dim", "q_stride", "k_stride", "v_stride", "interleaved", "block_size")
    ]


class DecodeShape(ctypes.Structure):
    """As in decode_tasks.h; strides in elements."""

    _fields_ = [
        *((name, _INT) for name in ("rows", "q_heads", "kv_heads", "dim", "block_size", "table_width", "q_stride", "window")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
    ]


class PrefillShape(ctypes.Structure):
    """As in prefill.cpp; strides in elements."""

    _fields_ = [
        *((name, _INT) for name in ("rows", "q_heads", "kv_heads", "dim", "block_size", "table_width", "q_stride", "q_head_stride")),
        *((name, _INT) for name in ("block_stride", "slot_stride", "head_stride", "window")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
    ]


class GroupedWeight(ctypes.Structure):
    """As in grouped.h."""

    _fields_ = [("blocks", _POINTER), ("in_features", _INT), ("out_features", _INT), ("bits", _INT)]


class LoraShape(ctypes.Structure):
    """As in lora.cpp; strides in elements. Of an embedding ``in_features`` is the vocabulary, and ``x_stride`` nothing."""

    _fields_ = [(name, _INT) for name in ("groups", "in_features", "out_features", "max_rank", "x_stride", "out_stride")]


class GroupedLoraPart(ctypes.Structure):
    """As in grouped_lora.h."""

    _fields_ = [("slots", _POINTER), ("ranks", _POINTER), *((name, _INT) for name in ("slot_bytes", "first", "out"))]


class GroupedLora(ctypes.Structure):
    """As in grouped_lora.h."""

    _fields_ = [("parts", ctypes.POINTER(GroupedLoraPart)), *((name, _INT) for name in ("num_parts", "in_features", "max_rank"))]


class LoraRows(ctypes.Structure):
    """As in grouped_lora.h."""

    _fields_ = [("tokens", _POINTER), ("tiles", _POINTER), ("num_tiles", _INT)]


class LayerAdapters(ctypes.Structure):
    """As in decoder_layer.cpp."""

    _fields_ = [(name, GroupedLora) for name in ("qkv", "o", "gate_up", "down")]


class LayerWeights(ctypes.Structure):
    """As in decoder_layer.cpp; a bias may be None."""

    _fields_ = [
        *((name, _POINTER) for name in ("input_norm", "post_attention_norm")),
        *((name, GroupedWeight) for name in ("qkv", "o", "gate_up", "down")),
        *((f"{name}_bias", _POINTER) for name in ("qkv", "o", "gate_up", "down")),
        ("eps", ctypes.c_float),
    ]


class LayerStep(ctypes.Structure):
    """As in decoder_layer.cpp."""

    _fields_ = [
        *((name, _POINTER) for name in ("cos_sin", "positions", "slots", "tables", "lengths")),
        ("rotary_dim", _INT),
        ("attention", DecodeShape),
    ]


class PlacedLayer(ctypes.Structure):
    """As in decoder_layer.cpp; ``adapters`` may be None."""

    _fields_ = [*((name, _POINTER) for name in ("weights", "adapters", "k_cache", "v_cache")), ("step", _INT)]


class ModelStart(ctypes.Structure):
    """As in decoder_layer.cpp."""

    _fields_ = [("table", _POINTER), ("count", _INT), ("token_ids", _POINTER)]


class ModelEnd(ctypes.Structure):
    """As in decoder_layer.cpp."""

    _fields_ = [("norm", _POINTER), ("head", GroupedWeight), ("eps", ctypes.c_float)]


class EndOutput(ctypes.Structure):
    """As in decoder_layer.cpp."""

    _fields_ = [("logits", _POINTER), ("tokens", _POINTER)]


_ARGUMENTS: dict[str, list[Any]] = {
    "add_rms_norm": [*[_POINTER] * 5, ctypes.c_float, *[_INT] * 4],
    "silu_and_mul": [_POINTER, _POINTER, *[_INT] * 3],
    "rope_and_cache": [*[_POINTER] * 9, ctypes.POINTER(RopeShape)],
    "paged_decode": [*[_POINTER] * 6, ctypes.POINTER(DecodeShape)],
    "quantize_rows": [*[_POINTER] * 3, _INT, _INT],
    "dequantize": [*[_POINTER] * 5, _INT, _INT],
    "decoder_layers": [
        *(_POINTER, _POINTER, ctypes.POINTER(PlacedLayer), _INT, ctypes.POINTER(LayerStep), ctypes.POINTER(LoraRows), _INT),
        *map(ctypes.POINTER, (ModelStart, ModelEnd, EndOutput)),
    ],
    "dense_linear": [*[_POINTER] * 4, *[_INT] * 4],
    "grouped_linear": [_POINTER, _POINTER, ctypes.POINTER(GroupedWeight), _POINTER, _INT, _INT],
    "add_grouped_lora": [_POINTER, _POINTER, ctypes.POINTER(GroupedLora), ctypes.POINTER(LoraRows), _INT, _INT],
    "add_lora": [*[_POINTER] * 7, ctypes.POINTER(LoraShape)],
    "add_embedding_lora": [*[_POINTER] * 7, ctypes.POINTER(LoraShape)],
    "first_maximum": [_POINTER, _POINTER, *[_INT] * 3],
    "prefill_attention": [*[_POINTER] * 7, ctypes.POINTER(PrefillShape)],
}

_RESULTS = {"decoder_layers": _INT}  # others have none


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they were not built, are of other sources than this module or can't share torch's thread pool."""
    openmp = _openmp_of_torch()
    if openmp is None:
        return None
    found, others = None, []
    for path in _built():
        # The kernels are linked without an OpenMP library: they use the one that is global now, which is torch's.
        ctypes.CDLL(openmp, mode=ctypes.RTLD_GLOBAL)
        candidate = ctypes.CDLL(str(path))
        if (interface := _interface(candidate)) == INTERFACE:
            found = candidate
            break
        others.append(f"{path.name} ({interface})")
    if others:
        names, folder = ", ".join(others), Path(__file__).parent
        log.warning(
            "Compiled CPU kernels in %s were built from other sources, whose interface is not %d, and are not used: %s. "
            "Build them again: touch setup.py, then make setup.",
            *(folder, INTERFACE, names),
        )
    return found


@functools.cache
def function(name: str, dtype: torch.dtype, pages: torch.dtype | None = None) -> Callable[..., Any] | None:
    """The kernel of that name for a dtype; None where there is none. Pointers are passed as integers (Tensor.data_ptr()).

    ``pages``: the dtype of keys and values in the cache, where it may differ."""
    types = (dtype,) if pages in (None, dtype) else (dtype, pages)
    if not all(it in _SUFFIX for it in types) or (loaded := library()) is None:
        return None
    kernel = getattr(loaded, f"{name}_{'_pages_'.join(_SUFFIX[it] for it in types)}", None)
    if kernel is None:
        return None
    kernel.argtypes = _ARGUMENTS[name]
    kernel.restype = _RESULTS.get(name)
    result: Callable[..., Any] = kernel
    return result


def panel_width() -> int:
    """Columns of a panel of ``dense_linear``, where that is."""
    loaded = library()
    assert loaded is not None, "there is no such kernel"
    loaded.dense_panel.restype = _INT
    return int(loaded.dense_panel())


def _built() -> Iterator[Path]:
    """The libraries that this processor runs, the best first."""
    for variant in _variants():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(__file__).parent / f"_{variant}{suffix}"
            if path.exists():
                yield path


def _interface(candidate: ctypes.CDLL) -> int:
    """0: built before there was a number."""
    ask = getattr(candidate, "headway_interface", None)
    if ask is None:
        return 0
    ask.restype = _INT
    return int(ask())


def _variants() -> list[str]:
    capabilities = torch.cpu.get_capabilities()
    variants = []
    if all(capabilities.get(f"avx512_{part}") for part in ("f", "bw", "cd", "dq", "vl")):
        if capabilities.get("avx512_vnni"):
            variants += ["avx512_bf16"] if capabilities.get("avx512_bf16") else []
            variants.append("avx512_vnni")
        variants.append("avx512")
    if capabilities.get("avx2") and capabilities.get("fma3"):
        variants.append("avx2")
    return [*variants, "baseline"]


def _openmp_of_torch() -> str | None:
    """The OpenMP library with GNU's interface that is in this process; None if there are several, or none."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    lines = maps.read_text().splitlines()
    found = {line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line}
    return found.pop() if len(found) == 1 else None
