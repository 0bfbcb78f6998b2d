"""Tiny quantised checkpoints, packed by the public rules of each format in numpy, beside the same weights as plain numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from headway.server.source.files import ModelFiles

Tensors = dict[str, Tensor]
LATENT_LINEARS = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
LINEARS = (
    *LATENT_LINEARS,
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
    "w1",
    "w2",
    "w3",
)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Form:
    """``pack``: of a weight [N, K] and the name of its module -> its tensors, and the weight that they stand for."""

    config: dict[str, Any]
    pack: Callable[[Tensor, str], tuple[Tensors, Tensor]]


def quantize_files(plain: ModelFiles, directory: Path, form: Form, dtype: torch.dtype = torch.float32) -> ModelFiles:
    """``plain`` in ``form``; its own linear weights become those that the form's tensors stand for, in fp32."""
    shutil.copytree(plain.path, directory)
    path = plain.path / "model.safetensors"
    own, packed = load_file(path), {}
    for name, tensor in sorted(own.items()):
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in LINEARS:
            tensors, own[name] = form.pack(tensor, module)
            packed |= {f"{module}.{kind}": value.contiguous() for kind, value in tensors.items()}
        else:
            packed[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in own.items()}, path, {"format": "pt"})
    save_file(packed, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config |= {"quantization_config": form.config, "dtype": str(dtype).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(config))
    return ModelFiles("safetensors", directory, None, "tiny-quantised")


def words(values: NDArray[Any], bits: int) -> Tensor:
    """[rows, W * 32 / bits] -> [rows, W] int32, the first number in the lowest bits."""
    per_word = 32 // bits
    padded = np.pad(values.astype(np.uint64), ((0, 0), (0, -values.shape[1] % per_word)))
    found = np.zeros((padded.shape[0], padded.shape[1] // per_word), np.uint64)
    for i in range(per_word):
        found |= padded[:, i::per_word] << np.uint64(bits * i)
    return torch.from_numpy(found.astype(np.uint32).view(np.int32))


def rounded(
    weight: Tensor, bits: int, group_size: int, *, is_symmetric: bool, order: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Tensor]:
    """(unsigned values [N, K], scales [N, G], zeros [N, G], the weight that they stand for); ``order`` [K]: each column's group."""
    matrix = weight.numpy()
    n, k = matrix.shape
    size = k if group_size == -1 else group_size
    groups = np.arange(k) // size if order is None else order
    values, dequantised = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    scales, zeros = np.zeros((n, k // size), np.float32), np.zeros((n, k // size), np.int64)
    most = 2**bits - 1
    for g in range(k // size):
        columns = groups == g
        own = matrix[:, columns]
        if is_symmetric:
            scales[:, g] = np.abs(own).max(1) / (most // 2)
            zeros[:, g] = 2 ** (bits - 1)
        else:
            low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
            scales[:, g] = (high - low) / most
            zeros[:, g] = np.clip(np.round(-low / scales[:, g]), 1, most)
        step, zero = scales[:, g, None], zeros[:, g, None]
        values[:, columns] = np.clip(np.round(own / step) + zero, 0, most)
        dequantised[:, columns] = (values[:, columns] - zero) * step
    return values, scales, zeros, torch.from_numpy(dequantised)


def shuffled_groups(k: int, group_size: int, seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).permutation(np.arange(k) // group_size)


def gptq(bits: int = 4, group_size: int = 32, *, sym: bool = True, desc_act: bool = False, v2: bool = False, apart: bool = False) -> Form:
    """``apart``: with ``desc_act``, each linear has an order of its own, else those that read the same have the same."""

    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        k = weight.shape[1]
        size = k if group_size == -1 else group_size
        order = shuffled_groups(k, size, sum(module.encode()) if apart else 0) if desc_act else np.arange(k) // size
        values, scales, zeros, stands_for = rounded(weight, bits, group_size, is_symmetric=sym, order=order)
        tensors = {
            "qweight": words(values, bits).t(),
            "qzeros": words((zeros if v2 else zeros - 1).T, bits),
            "scales": torch.from_numpy(scales).t(),
            "g_idx": torch.from_numpy(order.astype(np.int32)),
        }
        return tensors, stands_for

    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act}
    return Form(config | ({"checkpoint_format": "gptq_v2"} if v2 else {}), pack)


def awq(group_size: int = 32) -> Form:
    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        values, scales, zeros, stands_for = rounded(weight, 4, group_size, is_symmetric=False)

        def in_order(numbers: NDArray[Any]) -> NDArray[Any]:
            return numbers.reshape(len(numbers), -1, 8)[:, :, list(AWQ_ORDER)].reshape(numbers.shape)

        tensors = {
            "qweight": words(in_order(np.ascontiguousarray(values.T)), 4),
            "qzeros": words(in_order(np.ascontiguousarray(zeros.T)), 4),
            "scales": torch.from_numpy(scales).t(),
        }
        return tensors, stands_for

    return Form({"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm"}, pack)


def _group(weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    return {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}}


def compressed(config_group: dict[str, Any], form: str, pack: Callable[[Tensor, str], tuple[Tensors, Tensor]], **more: Any) -> Form:
    config = {"quant_method": "compressed-tensors", "format": form, "config_groups": config_group, "ignore": ["lm_head"]}
    return Form(config | more, pack)


def compressed_packed(bits: int = 4, group_size: int = 32, *, symmetric: bool = True, actorder: bool = False) -> Form:
    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        k = weight.shape[1]
        order = shuffled_groups(k, group_size, 0) if actorder else None
        values, scales, zeros, stands_for = rounded(weight, bits, group_size, is_symmetric=symmetric, order=order)
        tensors = {
            "weight_packed": words(values, bits),
            "weight_scale": torch.from_numpy(scales),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            tensors["weight_zero_point"] = words(zeros.T, bits).t()
        if order is not None:
            tensors["weight_g_idx"] = torch.from_numpy(order.astype(np.int32))
        return tensors, stands_for

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "actorder": "group" if actorder else None}
    weights |= {"strategy": "channel"} if group_size == -1 else {"strategy": "group", "group_size": group_size}
    return compressed(_group(weights, None), "pack-quantized", pack)


def compressed_int8(*, rounds_input: bool = True) -> Form:
    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / 127
        values = (weight / scale).round().to(torch.int8)
        return {"weight": values, "weight_scale": scale}, values * scale

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True} if rounds_input else None
    return compressed(_group(weights, inputs), "int-quantized", pack)


def fp8_values(weight: Tensor, strategy: str) -> tuple[Tensor, Tensor, Tensor]:
    """(values, scale, what they stand for) with a scale a tensor, channel or block of 128 x 128."""
    n, k = weight.shape
    rows, columns = {"tensor": (n, k), "channel": (1, k), "block": (128, 128)}[strategy]
    scale = torch.zeros(-(-n // rows), -(-k // columns))
    values, stands_for = torch.zeros(n, k).to(torch.float8_e4m3fn), torch.zeros(n, k)
    for i in range(len(scale)):
        for j in range(scale.shape[1]):
            block = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scale[i, j] = weight[block].abs().max() / 448
            values[block] = (weight[block] / scale[i, j]).to(torch.float8_e4m3fn)
            stands_for[block] = values[block].float() * scale[i, j]
    return values, scale, stands_for


def compressed_fp8(strategy: str = "channel", *, rounds_input: bool = True, is_static: bool = False, **more: Any) -> Form:
    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        values, scale, stands_for = fp8_values(weight, strategy)
        static = {"input_scale": torch.tensor([0.5])} if is_static else {}
        return {"weight": values, "weight_scale": scale.reshape(-1) if strategy == "tensor" else scale, **static}, stands_for

    weights: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    if strategy == "block":
        weights["block_structure"] = [128, 128]
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor" if is_static else "token", "dynamic": not is_static}
    return compressed(_group(weights, inputs if rounds_input else None), "float-quantized", pack, **more)


def fp8(*, is_blocked: bool) -> Form:
    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        values, scale, stands_for = fp8_values(weight, "block" if is_blocked else "tensor")
        return {"weight": values, **({"weight_scale_inv": scale} if is_blocked else {"weight_scale": scale.reshape(())})}, stands_for

    config: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    return Form(config | ({"weight_block_size": [128, 128]} if is_blocked else {}), pack)


def bitsandbytes(kind: str = "nf4", block_size: int = 64, *, nested: bool = True) -> Form:
    """A table of any 16 values shows how they are put together; that of the package goes with each weight of a file too."""
    codes = np.linspace(-1, 1, 16, dtype=np.float32) ** 3
    nested_size, nested_codes = 16, np.linspace(-1, 1, 256, dtype=np.float32)

    def pack(weight: Tensor, module: str) -> tuple[Tensors, Tensor]:
        flat = weight.numpy().ravel()
        blocks = np.pad(flat, (0, -flat.size % block_size)).reshape(-1, block_size)
        scales = np.abs(blocks).max(1)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block_size, "dtype": "bfloat16", "shape": list(weight.shape)}
        tensors = {"weight.absmax": torch.from_numpy(scales), "weight.quant_map": torch.from_numpy(codes.copy())}
        if nested:
            offset = float(scales.mean())
            rows = np.pad(scales - offset, (0, -scales.size % nested_size)).reshape(-1, nested_size)
            outer = np.abs(rows).max(1)
            indices = np.abs((rows / outer[:, None])[..., None] - nested_codes).argmin(-1).astype(np.uint8)
            scales = (nested_codes[indices] * outer[:, None]).ravel()[: scales.size] + offset
            tensors |= {
                "weight.absmax": torch.from_numpy(indices.ravel()[: scales.size]),
                "weight.nested_absmax": torch.from_numpy(outer),
                "weight.nested_quant_map": torch.from_numpy(nested_codes.copy()),
            }
            state |= {"nested_blocksize": nested_size, "nested_dtype": "float32", "nested_offset": offset}
        numbers = np.abs((blocks / scales[:, None])[..., None] - codes).argmin(-1)
        stands_for = (codes[numbers] * scales[:, None]).ravel()[: flat.size].reshape(weight.shape)
        numbers = numbers.ravel()[: flat.size + flat.size % 2]
        tensors["weight"] = torch.from_numpy((numbers[::2] << 4 | numbers[1::2]).astype(np.uint8)).unsqueeze(1)
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return tensors, torch.from_numpy(stands_for.astype(np.float32))

    return Form({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "llm_int8_skip_modules": None}, pack)
