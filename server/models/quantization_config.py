"""The quantization_config of a config.json, read into a scheme of weights: one format or a refusal."""

from __future__ import annotations

from typing import Any

from headway.server.layers.quant.scheme import BLOCK, Layout, WeightScheme, itemsize_of_scales
from headway.server.models.compressed_tensors_config import read_compressed_tensors
from headway.server.models.raw_config import RawConfig

QUANT_METHODS = ("compressed-tensors", "awq", "gptq", "fp8", "bitsandbytes")


def read_quantization(raw: RawConfig, checkpoint_dtype: str) -> WeightScheme | None:
    """None for a checkpoint that is not quantised. Raises ModelSourceError for a format, or a feature of one, that is not supported."""
    values = raw.get("quantization_config") or raw.get("compression_config")
    if not values:
        return None
    if not isinstance(values, dict):
        raise raw.refusal(f"quantization_config must be an object, not {values!r}")
    own = RawConfig(values, f"{raw.origin}, under quantization_config")
    method = own.text("quant_method", "unknown")
    scale_bytes = itemsize_of_scales(checkpoint_dtype)
    if method == "compressed-tensors":
        return read_compressed_tensors(own, scale_bytes)
    if method == "awq":
        return _read_awq(own, scale_bytes)
    if method == "gptq":
        return _read_gptq(own, scale_bytes)
    if method == "fp8":
        return _read_fp8(own)
    if method == "bitsandbytes":
        return _read_bitsandbytes(own)
    known = ", ".join(QUANT_METHODS)
    raise raw.refusal(
        f"quantization_config names the {method!r} format, which is not supported; use one in {known}, the unquantised model or a GGUF"
    )


def _read_awq(own: RawConfig, scale_bytes: int) -> WeightScheme:
    """Lin et al., arXiv:2306.00978, as AutoAWQ writes it."""
    bits, version = own.integer("bits", own.integer("w_bit", 4)), own.text("version", "gemm").lower()
    if bits != 4:
        raise own.refusal(f"bits is {bits}; of AWQ only 4 are supported")
    if version != "gemm":
        raise own.refusal(f"version is {version!r}; of AWQ only the packing 'gemm' is supported")
    if not own.flag("zero_point", True):
        raise own.refusal("zero_point is false; AWQ is supported with zero points only")
    group_size = _group_size(own, own.integer("group_size", own.integer("q_group_size", 128)))
    return WeightScheme(
        "awq", "awq", 4, group_size=group_size, is_symmetric=False, scale_bytes=scale_bytes, ignored=("lm_head", *_unconverted(own))
    )


def _read_gptq(own: RawConfig, scale_bytes: int) -> WeightScheme:
    """Frantar et al., arXiv:2210.17323, as AutoGPTQ and GPTQModel write it."""
    bits, version = own.integer("bits"), own.text("checkpoint_format", "gptq")
    if bits not in (4, 8):
        raise own.refusal(f"bits is {bits}; of GPTQ 4 and 8 are supported")
    layouts: dict[str, Layout] = {"gptq": "gptq", "gptq_v2": "gptq_v2"}
    if version not in layouts:
        raise own.refusal(f"checkpoint_format is {version!r}; of GPTQ 'gptq' and 'gptq_v2' are supported")
    if own.flag("is_marlin_format"):
        raise own.refusal("is_marlin_format is true; of GPTQ its own packing is supported, not Marlin's")
    if own.get("dynamic"):
        raise own.refusal("dynamic gives modules bits of their own, which is not supported")
    ignored = _unconverted(own) if own.flag("lm_head") else ("lm_head", *_unconverted(own))
    return WeightScheme(
        "gptq",
        layouts[version],
        bits,
        group_size=_group_size(own, own.integer("group_size")),
        is_symmetric=own.flag("sym", True),
        has_order=own.flag("desc_act"),
        scale_bytes=scale_bytes,
        ignored=ignored,
    )


def _read_fp8(own: RawConfig) -> WeightScheme:
    """DeepSeek-V3's (arXiv:2412.19437) and Qwen3's blocks, or a scale a tensor. A static scale of activations is not needed: each
    token has its own."""
    if (kind := own.text("fmt", "e4m3")) not in ("e4m3", "float8_e4m3fn"):
        raise own.refusal(f"fmt is {kind!r}; of fp8 only e4m3 is supported")
    scheme = own.text("activation_scheme", "dynamic")
    if scheme not in ("dynamic", "static"):
        raise own.refusal(f"activation_scheme is {scheme!r}; dynamic and static are supported")
    block = own.get("weight_block_size")
    if block is not None and block != [BLOCK, BLOCK]:
        raise own.refusal(f"weight_block_size is {block!r}; only blocks of {BLOCK} x {BLOCK} are supported")
    ignored = ("lm_head", *_unconverted(own))
    return WeightScheme("fp8", "plain", 8, is_float=True, is_blocked=block is not None, rounds_input=True, ignored=ignored)


def _read_bitsandbytes(own: RawConfig) -> WeightScheme:
    """Dettmers et al., arXiv:2305.14314. The kind of the numbers and their blocks are said beside each weight."""
    if not own.flag("load_in_4bit", own.flag("_load_in_4bit")):
        raise own.refusal("load_in_4bit is not true; of bitsandbytes 4 bits are supported")
    skipped: Any = own.get("llm_int8_skip_modules") or []
    if not isinstance(skipped, list) or not all(isinstance(name, str) for name in skipped):
        raise own.refusal(f"llm_int8_skip_modules must be a list of names, not {skipped!r}")
    return WeightScheme("bitsandbytes", "bitsandbytes", 4, ignored=("lm_head", *skipped))


def _group_size(own: RawConfig, size: int) -> int:
    if size != -1 and (size < 32 or size % 32):
        raise own.refusal(f"group_size is {size}; -1 and multiples of 32 are supported")
    return max(size, 0)


def _unconverted(own: RawConfig) -> tuple[str, ...]:
    names: Any = own.get("modules_to_not_convert") or own.get("ignored_layers") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise own.refusal(f"modules_to_not_convert must be a list of names, not {names!r}")
    return tuple(names)
