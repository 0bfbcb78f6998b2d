"""Compiles every Triton kernel ahead of time and prints what it takes, as JSON lines. Needs ptxas, no GPU.

Run as a script without TRITON_INTERPRET: a kernel imported under the interpreter cannot be compiled. Pointers and integers are
taken as multiples of 16, as they are in practice: loads are then copied ahead of time, which is what takes shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from matmul_kernels import Case, matmul_cases
from moe_kernels import moe_cases
from sampling_kernels import sampling_cases
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headway.kernels.gpu import (
    activation,
    embedding_lora,
    lora,
    norm,
    paged_attention,
    prefill_attention,
    prefill_tiles,
    rope,
    shared_pages,
    token_mask,
)

SCALES = {"k_scales_ptr": "*fp32", "v_scales_ptr": "*fp32"}
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}


def cases(dtype: str, *, capability: int) -> list[Case]:
    """As the launchers call them for ``dtype``."""
    pointer = "*" + dtype
    found: list[Case] = []
    for residual in (False, True):
        types = dict.fromkeys(("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "total_ptr"), pointer) | {"eps": "fp32"}
        found.append(("norm", norm.rms_norm_kernel, types, {"HAS_RESIDUAL": residual, "BLOCK": 4096}))
    for kind in ("silu", "gelu", "gelu_tanh"):
        types = {"x_ptr": pointer, "out_ptr": pointer}
        found.append((kind, activation.gated_kernel, types, {"KIND": kind, "BLOCK": activation.BLOCK}))
    types = {"logits_ptr": pointer, "allowed_ptr": "*i32", "lines_ptr": "*i64"}
    found.append(("forbid", token_mask.forbid_kernel, types, {"BLOCK": token_mask.BLOCK}))
    for interleaved, rest, has_norm in ((False, 0, False), (True, 64, False), (False, 0, True), (True, 64, True)):
        page = pointer if interleaved else _fp8_pages(capability)
        types = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr", "q_weight_ptr", "k_weight_ptr"), pointer)
        types |= dict.fromkeys(("k_cache_ptr", "v_cache_ptr"), page) | dict.fromkeys(("eps", "k_scale", "v_scale"), "fp32")
        types |= {"cos_sin_ptr": "*fp32", "positions_ptr": "*i64", "slots_ptr": "*i64"} | SCALES
        constants = {
            "HAS_VALUES": True,
            "HAS_NORM": has_norm,
            "HALF": 32 if rest else 64,
            "INTERLEAVED": interleaved,
            "HEADS": 32,
            "KV_HEADS": 8,
            "HALF_BLOCK": 64,
            "PASS_BLOCK": rest,
        }
        found.append(("rope", rope.rope_and_cache_kernel, types, constants | {"DIM_BLOCK": 128}))
        int8 = types | dict.fromkeys(("k_cache_ptr", "v_cache_ptr"), "*i8")
        found.append(("rope", rope.rope_and_cache_kernel, int8, constants | {"DIM_BLOCK": 128}))
        if interleaved and not has_norm:
            latent = {"HAS_VALUES": False, "HEADS": 16, "KV_HEADS": 1, "HALF_BLOCK": 32, "PASS_BLOCK": 512, "DIM_BLOCK": 1024}
            found.append(("rope", rope.rope_and_cache_kernel, types, constants | latent))
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    found += attention_cases(pointer, torch_dtype, capability) + shared_pages_cases(pointer, capability)
    merge_wide = {"HAS_TOTAL": False, "BLOCK_S": shared_pages.MAX_SPLITS, "BLOCK_D": 1024, "num_warps": 8}
    types = {"parts_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": pointer, "total_ptr": "*fp32"}
    found.append(("merge", paged_attention.merge_kernel, types, merge_wide))
    for parts, has_total in (("*fp32", False), ("*fp32", True), (pointer, False)):
        types = {"parts_ptr": parts, "lse_ptr": "*fp32", "out_ptr": pointer, "total_ptr": "*fp32"}
        merge = {"HAS_TOTAL": has_total, "BLOCK_S": 8, "BLOCK_D": 128}
        found.append(("merge", paged_attention.merge_kernel, types, merge))
    found += lora_cases(pointer, torch_dtype) + moe_cases(pointer, torch_dtype, has_fp8=capability >= 89)
    return found + sampling_cases() + matmul_cases(pointer, has_fp8=capability >= 89)


def attention_cases(pointer: str, dtype: torch.dtype, capability: int) -> list[Case]:
    """Pages in ``dtype``, in fp8 and in int8."""
    types = dict.fromkeys(("q_ptr", "sinks_ptr", "out_ptr"), pointer) | dict.fromkeys(("scale", "v_scale", "softcap"), "fp32")
    types |= {"tables_ptr": "*i32", "seq_lens_ptr": "*i32", "starts_ptr": "*i32", "lse_ptr": "*fp32"}
    types |= {"begins_ptr": "*i32", "ends_ptr": "*i32"} | SCALES
    constants = {"GROUP": 4, "BLOCK_SIZE": 16, "BLOCK_D": 128, "UPCAST": False}
    decode = constants | {"BLOCK_M": 16, "BLOCK_N": paged_attention.block_n(128, dtype), "HAS_SOFTCAP": False}
    prefill = constants | {"UNIT": 16, "HEAD_DIM": 128}
    found: list[Case] = []
    for page in (pointer, _fp8_pages(capability), "*i8"):
        pages = types | dict.fromkeys(("k_cache_ptr", "v_cache_ptr"), page)
        has_scales = {"HAS_TOKEN_SCALES": page == "*i8"}
        for splits, has_spans in ((1, False), (8, False), (1, True)):
            options = {"HAS_SINKS": splits > 1, "HAS_BEGINS": has_spans, "HAS_LSE": has_spans or splits > 1}
            out = {"out_ptr": "*fp32" if splits > 1 else pointer}
            found.append(("decode", paged_attention.decode_kernel, pages | out, decode | options | has_scales))
        for has_softcap, has_window, has_spans in (*product((False, True), (False, True), (False,)), (False, True, True)):
            options = {"HAS_SOFTCAP": has_softcap, "HAS_WINDOW": has_window, "HAS_SINKS": has_window and not has_spans}
            options |= {"HAS_SPANS": has_spans}
            pages_dtype = {pointer: dtype, "*i8": torch.int8}.get(page, torch.float8_e4m3fn)
            is_bare = not has_window and not has_softcap
            tile = prefill_tiles.tile_of(128, dtype, pages_dtype, has_warpgroups=capability == 90, is_bare=is_bare)
            options |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "num_warps": tile.num_warps, "num_stages": tile.num_stages}
            found.append(("prefill", prefill_attention.prefill_kernel, pages, prefill | options | has_scales))
    return found


def shared_pages_cases(pointer: str, capability: int) -> list[Case]:
    """DeepSeek's pages, of few heads and of many."""
    types = {"q_ptr": pointer, "tables_ptr": "*i32", "ends_ptr": "*i32", "starts_ptr": "*i32", "lse_ptr": "*fp32"}
    types |= dict.fromkeys(("scale", "v_scale"), "fp32")
    constants = {"FIRST": 64, "LAST": 512, "FIRST_BLOCK": 64, "BLOCK_SIZE": 16, "BLOCK_N": shared_pages.BLOCK_N, "UPCAST": False}
    found: list[Case] = []
    fp8 = _fp8_pages(capability)
    for page, num_heads, splits, has_starts in ((pointer, 128, 8, False), (fp8, 128, 1, True), (fp8, 16, 1, False)):
        block_m = shared_pages.head_block(num_heads)
        options = {"BLOCK_M": block_m, "num_warps": block_m // 4, "HAS_LSE": splits > 1}
        options |= {"HAS_STARTS": has_starts, "HAS_SPANS": False}
        own = types | {"pages_ptr": page, "out_ptr": "*fp32" if splits > 1 else pointer}
        found.append(("shared_pages", shared_pages.shared_pages_kernel, own, constants | options))
    return found


def _fp8_pages(capability: int) -> str:
    return "*fp8e4nv" if capability >= 89 else "*u8"


def lora_cases(pointer: str, dtype: torch.dtype) -> list[Case]:
    types = dict.fromkeys(("x_ptr", "a_ptr", "b_ptr", "out_ptr"), pointer)
    types |= {"parts_ptr": "*fp32"} | dict.fromkeys(("tokens_ptr", "tiles_ptr", "ranks_ptr"), "*i32")
    found: list[Case] = []
    for block_m, max_rank, splits in ((16, 16, 8), (64, 256, 1)):
        block_r, block_k = lora.blocks(max_rank, dtype)
        constants = {"NUM_SPLITS": splits, "BLOCK_M": block_m, "BLOCK_R": block_r, "UPCAST": False}
        shrink = {"x_stride_k": 1, "a_stride_k": 1, "BLOCK_K": block_k, "num_stages": 3}
        found.append(("shrink", lora.shrink_kernel, types, constants | shrink))
        found.append(("expand", lora.expand_kernel, types, constants | {"b_stride_rank": 1, "BLOCK_N": lora.BLOCK_N}))
        embed = {"a_stride_rank": 1, "b_stride_rank": 1, "BLOCK_M": block_m, "BLOCK_R": block_r, "BLOCK_N": lora.BLOCK_N, "UPCAST": False}
        found.append(("embed", embedding_lora.embedding_lora_kernel, types | {"ids_ptr": "*i64"}, embed))
    return found


def compile_case(case: Case, capability: int) -> Any:
    """Triton's CompiledKernel for a GPU of that capability; options among the constants of ``case`` are taken out of them."""
    _, kernel, types, constants = case
    options = {option: constants.pop(option, default) for option, default in OPTIONS.items()}
    if "IS_DEPENDENT" in kernel.arg_names:
        constants["IS_DEPENDENT"] = options["launch_pdl"] = capability >= 90
    signature = {arg: "constexpr" if arg in constants else types.get(arg, "i32") for arg in kernel.arg_names}
    multiples = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*") or kind == "i32"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=multiples)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def compile_all(capability: int, dtype: str) -> None:
    for case in cases(dtype, capability=capability):
        compiled = compile_case(case, capability)
        fused = len(re.findall(r"\bfma\.", compiled.asm["ptx"]))
        taken = {"shared": compiled.metadata.shared, "fused": fused} | _registers(compiled.asm["cubin"])
        taken |= {"launched_early": compiled.metadata.launch_pdl, "waits": "griddepcontrol.wait" in compiled.asm["ptx"]}
        print(json.dumps({"kernel": case[0], "sm": capability, "dtype": dtype} | taken), flush=True)


def _registers(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes of stack (spills) a thread, as cuobjdump reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        report = subprocess.run([str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(re.search(rf"{key}:(\d+)", report)[1]) for name, key in (("registers", "REG"), ("stack", "STACK"))}  # type: ignore[index]


if __name__ == "__main__":
    compile_all(int(sys.argv[1]), sys.argv[2])
