"""What compressed-tensors (the format of llm-compressor) says of a checkpoint, read into a scheme of weights."""

from __future__ import annotations

import re
from typing import Any

from headway.server.layers.quant.scheme import BLOCK, WeightScheme
from headway.server.models.raw_config import RawConfig

_PLAIN_FORMATS = ("int-quantized", "float-quantized", "naive-quantized")


def read_compressed_tensors(own: RawConfig, scale_bytes: int) -> WeightScheme:
    """Raises ModelSourceError for what is not supported: sparse weights, transforms, several schemes in one model among it."""
    if own.get("transform_config"):
        raise own.refusal("transform_config rotates weights when they are used, which is not supported")
    sparsity = own.get("sparsity_config") or {}
    if not isinstance(sparsity, dict):
        raise own.refusal(f"sparsity_config must be an object, not {sparsity!r}")
    if sparsity.get("format", "dense") != "dense":
        raise own.refusal(f"sparsity_config has the format {sparsity['format']!r}; only dense weights are supported")
    groups = own.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise own.refusal("config_groups must be one group: several schemes in one model are not supported")
    weights, inputs = _part(own, group, "weights"), _part(own, group, "input_activations")
    if weights is None:
        raise own.refusal("config_groups says nothing of weights")
    if _part(own, group, "output_activations") is not None:
        raise own.refusal("config_groups has output_activations, which are not supported")
    if not weights.flag("symmetric", True) and weights.text("type", "int") == "float":
        raise own.refusal("weights are float and not symmetric, which is not supported")
    form = str(group.get("format") or own.text("format", ""))
    targets = _names(own, group.get("targets", ["Linear"]), "targets")
    ignored, has_fp8_cache = _names(own, own.get("ignore") or [], "ignore"), _has_fp8_cache(own)
    if form == "pack-quantized":
        return _packed(weights, inputs, scale_bytes, targets, ignored, has_fp8_cache)
    if form not in _PLAIN_FORMATS:
        raise own.refusal(f"format is {form!r}; {', '.join(('pack-quantized', *_PLAIN_FORMATS))} are supported")
    return _plain(weights, inputs, targets, ignored, has_fp8_cache)


def _packed(
    weights: RawConfig, inputs: RawConfig | None, scale_bytes: int, targets: tuple[str, ...], ignored: tuple[str, ...], has_fp8_cache: bool
) -> WeightScheme:
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    if bits not in (4, 8) or kind != "int" or inputs is not None:
        raise weights.refusal(f"packed weights are {kind} of {bits} bits; integers of 4 or 8, with activations as they are, are supported")
    strategy, size = weights.text("strategy", "tensor"), weights.integer("group_size", -1)
    if strategy not in ("group", "channel") or (strategy == "group" and (size < 32 or size % 32)):
        raise weights.refusal(f"packed weights have the strategy {strategy!r} and group_size {size}; channel and groups of 32 n are taken")
    return WeightScheme(
        "compressed-tensors",
        "packed",
        bits,
        group_size=size if strategy == "group" else 0,
        is_symmetric=weights.flag("symmetric", True),
        has_order=weights.get("actorder") in ("group", True),
        scale_bytes=scale_bytes,
        targets=targets,
        ignored=ignored,
        has_fp8_cache=has_fp8_cache,
    )


def _plain(
    weights: RawConfig, inputs: RawConfig | None, targets: tuple[str, ...], ignored: tuple[str, ...], has_fp8_cache: bool
) -> WeightScheme:
    """Activations get a scale a token, whatever the file says of theirs: none is coarser."""
    bits, kind, strategy = weights.integer("num_bits"), weights.text("type", "int"), weights.text("strategy", "tensor")
    is_float, is_blocked = kind == "float", strategy == "block"
    if bits != 8 or kind not in ("int", "float") or not weights.flag("symmetric", True):
        raise weights.refusal(f"weights are {kind} of {bits} bits; symmetric ones of 8 bits are supported")
    if strategy not in ("tensor", "channel", *(("block",) if is_float else ())):
        raise weights.refusal(f"weights have a scale for each {strategy}; tensor and channel are supported, and block for float")
    if is_blocked and weights.get("block_structure") not in ([BLOCK, BLOCK], f"{BLOCK}x{BLOCK}"):
        raise weights.refusal(f"block_structure is {weights.get('block_structure')!r}; only {BLOCK} x {BLOCK} is supported")
    if inputs is not None:
        same = inputs.integer("num_bits") == 8 and inputs.text("type", "int") == kind
        if not same or not inputs.flag("symmetric", True):
            raise inputs.refusal("input_activations must be symmetric, with the type and the bits of the weights")
    return WeightScheme(
        "compressed-tensors",
        "plain",
        8,
        is_float=is_float,
        is_blocked=is_blocked,
        rounds_input=inputs is not None,
        targets=targets,
        ignored=ignored,
        has_fp8_cache=has_fp8_cache,
    )


def _has_fp8_cache(own: RawConfig) -> bool:
    scheme = _part(own, own.values, "kv_cache_scheme")
    if scheme is None:
        return False
    if (scheme.integer("num_bits"), scheme.text("type", "int"), scheme.text("strategy", "tensor")) != (8, "float", "tensor"):
        raise scheme.refusal("kv_cache_scheme must be float of 8 bits with a scale a tensor")
    return True


def _part(own: RawConfig, values: Any, key: str) -> RawConfig | None:
    part = values.get(key)
    if part is None:
        return None
    if not isinstance(part, dict):
        raise own.refusal(f"{key} must be an object, not {part!r}")
    return RawConfig(part, f"{own.origin}.{key}")


def _names(own: RawConfig, names: Any, key: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise own.refusal(f"{key} must be a list of names, not {names!r}")
    for name in names:
        if name.startswith("re:"):
            try:
                re.compile(name.removeprefix("re:"))
            except re.error as error:
                raise own.refusal(f"{key} has {name!r}, which is no regular expression ({error})") from error
    return tuple(names)
