"""The kernels that work on logits as their launchers call them, to be compiled by compile_kernels.py."""

from __future__ import annotations

from matmul_kernels import Case

from headway.kernels.gpu import penalties, sampling


def sampling_cases() -> list[Case]:
    """For 128,256 tokens. Whatever the model's dtype, logits are fp32."""
    types = {"logits_ptr": "*fp32", "distances_ptr": "*i32", "peaks_ptr": "*fp32", "places_ptr": "*i32", "out_ptr": "*i64"}
    types |= {"histogram_ptr": "*i64", "sums_ptr": "*i64", "list_ptr": "*i32", "lines_ptr": "*i64", "top_k_ptr": "*i64"}
    types |= dict.fromkeys(("top_p_ptr", "temperature_ptr", "min_p_ptr", "uniform_ptr"), "*fp64")
    blocks = {"BLOCK": sampling.BLOCK, "num_warps": 8}
    constants = blocks | {"BLOCKS": 32, "NUM_BINS": sampling.NUM_BINS}
    penalty_types = {"logits_ptr": "*fp32", "counts_ptr": "*fp32", "in_prompt_ptr": "*u8"}
    penalty_types |= dict.fromkeys(("lines_ptr", "slots_ptr", "tokens_ptr"), "*i64")
    penalty_types |= dict.fromkeys(("presence_ptr", "frequency_ptr", "repetition_ptr"), "*fp32")
    return [
        ("penalise", penalties.penalise_kernel, penalty_types, {"BLOCK": penalties.BLOCK, "num_warps": 8}),
        ("count", penalties.count_kernel, penalty_types, {"COUNT_BLOCK": penalties.COUNT_BLOCK}),
        ("peaks", sampling.peaks_kernel, types, blocks),
        ("finish", sampling.finish_kernel, types, {"BROKEN": -1, "BLOCKS": 32, "num_warps": 1}),
        ("weigh", sampling.weigh_kernel, types, constants | {"enable_fp_fusion": False}),
        (
            "draw",
            sampling.draw_kernel,
            types,
            constants | {"SCAN": sampling.SCAN, "PART": sampling.PART, "LIST_SIZE": sampling.LIST_SIZE, "num_warps": 16},
        ),
    ]
