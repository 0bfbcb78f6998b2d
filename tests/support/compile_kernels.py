"""Compiles every Triton kernel ahead of time and prints what it takes, as JSON lines. Needs ptxas, no GPU.

Run as a script without TRITON_INTERPRET: a kernel imported under the interpreter cannot be compiled.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headway.kernels.gpu import activation, norm, paged_attention, prefill_attention, rope, token_mask


def cases(dtype: str) -> list[tuple[str, Any, dict[str, str], dict[str, Any]]]:
    """(name, kernel, types of the run-time arguments that are not integers, constexprs), as the launchers call them for ``dtype``."""
    pointer = "*" + dtype
    attention = {"q_ptr": pointer, "k_cache_ptr": pointer, "v_cache_ptr": pointer, "out_ptr": pointer, "scale": "fp32", "softcap": "fp32"}
    attention |= {"tables_ptr": "*i32", "seq_lens_ptr": "*i32", "starts_ptr": "*i32", "lse_ptr": "*fp32"}
    found = []
    for residual in (False, True):
        types = dict.fromkeys(("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "total_ptr"), pointer) | {"eps": "fp32"}
        found.append(("norm", norm.rms_norm_kernel, types, {"HAS_RESIDUAL": residual, "BLOCK": 4096}))
    for kind in ("silu", "gelu", "gelu_tanh"):
        types = {"x_ptr": pointer, "out_ptr": pointer}
        found.append((kind, activation.gated_kernel, types, {"KIND": kind, "BLOCK": activation.BLOCK}))
    types = {"logits_ptr": pointer, "allowed_ptr": "*i32", "lines_ptr": "*i64"}
    found.append(("forbid", token_mask.forbid_kernel, types, {"BLOCK": token_mask.BLOCK}))
    for interleaved, rest in ((False, 0), (True, 64)):
        types = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "k_cache_ptr", "v_cache_ptr", "out_ptr"), pointer)
        types |= {"cos_sin_ptr": "*fp32", "positions_ptr": "*i64", "slots_ptr": "*i64"}
        constants = {"HALF": 32, "INTERLEAVED": interleaved, "HEADS": 32, "KV_HEADS": 8, "HALF_BLOCK": 32, "PASS_BLOCK": rest}
        found.append(("rope", rope.rope_and_cache_kernel, types, constants | {"DIM_BLOCK": 128}))
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    block_n = paged_attention.block_n(128, torch_dtype)
    constants = {"GROUP": 4, "HAS_SOFTCAP": False, "BLOCK_N": block_n, "BLOCK_D": 128, "UPCAST": False}
    for splits in (1, 8):
        types = attention | ({"out_ptr": "*fp32"} if splits > 1 else {})
        found.append(("decode", paged_attention.decode_kernel, types, constants | {"NUM_SPLITS": splits, "BLOCK_M": 16}))
    block_m = prefill_attention.block_m(128, torch_dtype)
    found.append(("prefill", prefill_attention.prefill_kernel, attention, constants | {"BLOCK_M": block_m, "HAS_SOFTCAP": True}))
    types = {"parts_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": pointer}
    found.append(("merge", paged_attention.merge_kernel, types, {"NUM_SPLITS": 8, "BLOCK_S": 8, "BLOCK_D": 128}))
    return found


def compile_all(capability: int, dtype: str) -> None:
    for name, kernel, types, constants in cases(dtype):
        signature = {arg: "constexpr" if arg in constants else types.get(arg, "i32") for arg in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        options = {"num_warps": 4, "num_stages": 2}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        print(json.dumps({"kernel": name, "sm": capability, "dtype": dtype, "shared": compiled.metadata.shared}), flush=True)


if __name__ == "__main__":
    compile_all(int(sys.argv[1]), sys.argv[2])
