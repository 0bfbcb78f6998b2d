"""What auto resolves to on which device, and the sentences for what can't work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from headway.kernels.kv_cache import are_int8_blocks, int8_blocks, split_int8_blocks
from headway.server.config.plan import DeviceFacts, ModelFacts, Plan, bounded_plan, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.models.base import KVSpec
from headway.server.sizing.memory import bytes_per_block
from headway.server.words import GIB

CPU = DeviceFacts("cpu", "cpu", 24 * GIB, 20 * GIB, has_fast_bf16=False, has_fast_int8=True)
GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
GGUF = ModelFacts("float32", 8192, is_quantized_gguf=True)
BF16 = ModelFacts("bfloat16", 4096, is_quantized_gguf=False)


def config(**topics: dict[str, Any]) -> ServerConfig:
    return ServerConfig.model_validate({"model": {"model": "m", **topics.pop("model", {})}, **topics})


@pytest.mark.parametrize(
    ("model", "device", "asked", "dtype", "quantization"),
    [
        (GGUF, CPU, {}, "float32", "int8"),  # as its users expect: 8-bit products
        (GGUF, replace(CPU, has_fast_bf16=True), {}, "bfloat16", "none"),
        (GGUF, replace(CPU, has_fast_bf16=True, multiplies_gguf=True), {}, "float32", "gguf"),  # with the file's own weights
        (GGUF, replace(CPU, multiplies_gguf=True), {"dtype": "bfloat16"}, "bfloat16", "none"),
        (GGUF, CPU, {"quantization": "gguf"}, "float32", "gguf"),
        (BF16, replace(CPU, multiplies_gguf=True), {}, "float32", "none"),
        (GGUF, replace(CPU, has_fast_int8=False), {}, "float32", "none"),
        (GGUF, CPU, {"dtype": "float32"}, "float32", "none"),  # the reference arithmetic stays exact
        (GGUF, replace(CPU, has_fast_bf16=True), {"quantization": "int8"}, "float32", "int8"),
        (BF16, CPU, {}, "float32", "none"),
        (BF16, CPU, {"dtype": "half"}, "float16", "none"),
        (GGUF, GPU, {}, "float16", "gguf_a16"),
        (GGUF, GPU, {"quantization": "gguf", "dtype": "float32"}, "float32", "gguf_a16"),  # which is that of activations alone
        (GGUF, GPU, {"quantization": "none"}, "float16", "none"),
        (BF16, GPU, {}, "bfloat16", "none"),
        (BF16, GPU, {"dtype": "float"}, "float32", "none"),
        (BF16, replace(GPU, has_fast_bf16=False), {}, "float16", "none"),
    ],
)
def test_weights(model: ModelFacts, device: DeviceFacts, asked: dict[str, Any], dtype: str, quantization: str) -> None:
    plan = make_plan(config(model=asked), model, device)
    assert (plan.dtype, plan.quantization) == (dtype, quantization)
    assert plan.kv_cache_dtype == ("bfloat16" if quantization == "gguf" and device.multiplies_gguf else dtype)


def test_pages_beside_the_files_own_weights() -> None:
    """bf16 unless fp32 is asked for, or the model pools and keeps none between steps."""
    device = replace(CPU, multiplies_gguf=True)
    assert make_plan(config(cache={"kv_cache_dtype": "float32"}), GGUF, device).kv_cache_dtype == "float32"
    assert make_plan(config(cache={"kv_cache_dtype": "bfloat16"}), GGUF, device).kv_cache_dtype == "bfloat16"
    assert make_plan(config(), replace(GGUF, pools=True), device).kv_cache_dtype == "float32"
    float16 = {"kv_cache_dtype": "float16"}
    told = "--kv-cache-dtype float16 differs from the model's float32: use auto, float32, fp8 or int8"
    with pytest.raises(ConfigError, match=f"^{told}, or --dtype float16 for both$"):
        make_plan(config(cache=float16), GGUF, device)
    with pytest.raises(ConfigError, match=f"^{told}$"):  # which computes in float32 only
        make_plan(config(cache=float16, model={"quantization": "gguf"}), GGUF, device)


def test_bf16_on_a_gpu_without() -> None:
    with pytest.raises(ConfigError, match=r"--dtype bfloat16: cuda:0 has no units for it.*: use --dtype float16 or auto"):
        make_plan(config(model={"dtype": "bfloat16"}), BF16, replace(GPU, has_fast_bf16=False))


def test_graphs_are_for_gpus_that_generate() -> None:
    asked = config(graphs={"cudagraph_capture_sizes": ["1", "4"]})
    assert make_plan(asked, BF16, GPU).graph_sizes == (1, 4)
    assert make_plan(asked, BF16, CPU).graph_sizes == ()
    assert make_plan(asked, replace(BF16, pools=True), GPU).graph_sizes == ()
    assert make_plan(config(scheduler={"max_num_active_seqs": 3}), BF16, GPU).graph_sizes == (1, 2, 3)


@pytest.mark.parametrize("asked", ["fp8", "fp8_e4m3"])
@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
def test_keys_and_values_in_fp8(device: DeviceFacts, asked: str) -> None:
    plan, plain = make_plan(config(cache={"kv_cache_dtype": asked}), BF16, device), make_plan(config(), BF16, device)
    assert plan == replace(plain, kv_cache_dtype="float8_e4m3fn")
    spec = KVSpec(2, 4, 64)
    assert bytes_per_block(spec, plan) == 2 * 2 * plan.block_size * 4 * 64
    assert bytes_per_block(spec, plain) == bytes_per_block(spec, plan) * (2 if device is GPU else 4)


@pytest.mark.parametrize("asked", ["int8", "int8_per_token_head"])
@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
def test_keys_and_values_in_int8(device: DeviceFacts, asked: str) -> None:
    """A byte a number, and four for the scale of each token and head."""
    plan, plain = make_plan(config(cache={"kv_cache_dtype": asked}), BF16, device), make_plan(config(), BF16, device)
    assert plan == replace(plain, kv_cache_dtype="int8")
    assert bytes_per_block(KVSpec(2, 4, 64), plan) == 2 * 2 * plan.block_size * 4 * (64 + 4)
    latent = replace(BF16, keeps_latents=True)
    with pytest.raises(ConfigError, match=f"^--kv-cache-dtype {asked}: this model keeps one vector .* use auto or fp8$"):
        make_plan(config(cache={"kv_cache_dtype": asked}), latent, device)
    assert make_plan(config(cache={"kv_cache_dtype": "fp8"}), latent, device).kv_cache_dtype == "float8_e4m3fn"


@pytest.mark.parametrize(("page_size", "num_heads", "head_dim"), [(16, 8, 128), (3, 2, 7), (1, 1, 80)])
def test_a_block_in_int8_takes_what_kernels_lay_out(page_size: int, num_heads: int, head_dim: int) -> None:
    plan = replace(make_plan(config(cache={"kv_cache_dtype": "int8"}), BF16, CPU), page_size=page_size)
    num_blocks, block_bytes = int8_blocks(5, page_size, num_heads, head_dim)
    assert (num_blocks, 2 * 3 * block_bytes) == (5, bytes_per_block(KVSpec(3, num_heads, head_dim), plan))
    pages, scales = split_int8_blocks(torch.zeros(num_blocks, block_bytes, dtype=torch.int8), page_size, num_heads, head_dim)
    assert are_int8_blocks(pages, scales)
    scales.fill_(float("nan"))
    assert not pages.any(), "they lie apart"


def test_budgets_by_device() -> None:
    on_cpu, on_gpu = make_plan(config(), BF16, CPU), make_plan(config(), BF16, GPU)
    assert (on_cpu.max_num_batched_tokens, on_cpu.max_num_seqs, on_cpu.block_size) == (512, 64, 32)
    assert (on_gpu.max_num_batched_tokens, on_gpu.max_num_seqs, on_gpu.block_size) == (8192, 256, 16)
    whole = make_plan(config(scheduler={"enable_chunked_prefill": False}), BF16, CPU)
    assert whole.max_num_batched_tokens == BF16.max_model_len


@pytest.mark.parametrize(("asked", "on_cpu", "on_gpu"), [(None, False, True), (True, True, True), (False, False, False)])
def test_steps_overlap_on_a_gpu(asked: bool | None, on_cpu: bool, on_gpu: bool) -> None:
    wanted = config(scheduler={"async_scheduling": asked})
    assert (make_plan(wanted, BF16, CPU).overlaps_steps, make_plan(wanted, BF16, GPU).overlaps_steps) == (on_cpu, on_gpu)


def test_steps_of_a_model_that_pools_do_not_overlap() -> None:
    pools = replace(BF16, pools=True)
    assert not make_plan(config(), pools, GPU).overlaps_steps
    with pytest.raises(ConfigError, match="--async-scheduling is for models that generate"):
        make_plan(config(scheduler={"async_scheduling": True}), pools, GPU)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": {"max_model_len": 5000}}, ["--max-model-len 5000", "limit of 4096"]),
        ({"model": {"quantization": "int8", "dtype": "float16"}}, ["--quantization int8", "float16"]),
        ({"model": {"quantization": "gguf"}}, ["--quantization gguf", "this model is none", "int8"]),
        ({"cache": {"kv_cache_dtype": "float16"}}, ["--kv-cache-dtype float16", "float32"]),
        ({"scheduler": {"max_num_batched_tokens": 8, "max_num_seqs": 9}}, ["--max-num-batched-tokens 8", "--max-num-seqs 9"]),
        ({"scheduler": {"enable_chunked_prefill": False, "max_num_batched_tokens": 100}}, ["4096", "it is 100"]),
    ],
)
def test_what_cannot_work(asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make_plan(config(**asked), BF16, CPU)
    for word in words:
        assert word in str(error.value)


def blocks(plan: Plan, device: DeviceFacts, **topics: dict[str, Any]) -> int:
    return plan_num_blocks(config(**topics), plan, device, bytes_per_block=1 << 20, peak_activation_bytes=GIB)


def test_cache_on_a_gpu_takes_what_the_fraction_leaves() -> None:
    plan = make_plan(config(), BF16, GPU)
    assert blocks(plan, GPU, cache={"gpu_memory_utilization": 0.5}) == (70 - 10 - 1) * 1024


def test_cache_on_a_cpu_takes_what_can_be_used_and_never_the_machine() -> None:
    plan = make_plan(config(), BF16, CPU)
    assert blocks(plan, CPU) == (5 - 1) * 1024
    small = make_plan(config(model={"max_model_len": 64}, scheduler={"max_num_seqs": 4}), BF16, CPU)
    assert blocks(small, CPU) == 4 * 2


def test_the_cpu_s_share_is_divided_by_the_engines_and_a_gpu_is_each_one_s_own() -> None:
    two = {"data_parallel_size": 2}
    plan = make_plan(config(), BF16, CPU)
    assert blocks(plan, CPU, data_parallel=two) == (5 * 1024) // 2 - 1024
    assert blocks(plan, GPU, data_parallel=two) == blocks(plan, GPU)


def test_cache_of_an_exact_size() -> None:
    plan = make_plan(config(model={"max_model_len": 64}), BF16, CPU)
    assert blocks(plan, CPU, cache={"kv_cache_memory_bytes": 10 << 20}) == 10
    assert blocks(plan, CPU, cache={"num_gpu_blocks_override": 7}) == 7


def test_a_cache_too_small_names_the_length_that_fits() -> None:
    plan = make_plan(config(), BF16, CPU)
    with pytest.raises(ConfigError, match=r"holds 320 tokens .* --max-model-len 320 or auto, .*134217728 needed"):
        blocks(plan, CPU, cache={"kv_cache_memory_bytes": 10 << 20})


def test_auto_shortens_the_context_to_what_fits() -> None:
    plan = make_plan(config(model={"max_model_len": "auto"}), BF16, CPU)
    num_blocks = blocks(plan, CPU, cache={"kv_cache_memory_bytes": 10 << 20})
    assert fitted_max_model_len(plan, num_blocks) == 320


HUGE = replace(BF16, max_model_len=2**25)  # as anybody may write into a config.json


def bounded(device: DeviceFacts, **topics: dict[str, Any]) -> Plan:
    asked = config(**topics)
    return bounded_plan(asked, make_plan(asked, HUGE, device), device, bytes_per_block=1 << 20)


def test_a_context_is_bounded_by_all_of_the_memory_before_anything_is_made_for_it() -> None:
    auto = {"max_model_len": "auto"}
    assert bounded(GPU, model=auto, cache={"gpu_memory_utilization": 0.5}).max_model_len == 70 * GIB // (1 << 20) * 16
    assert bounded(CPU, model=auto).max_model_len == 6 * GIB // (1 << 20) * 32
    assert bounded(CPU, model=auto, cache={"kv_cache_memory_bytes": 10 << 20}).max_model_len == 320
    assert bounded(CPU, model=auto, cache={"num_gpu_blocks_override": 3}).max_model_len == 96
    assert bounded(CPU, model={"max_model_len": 4096}).max_model_len == 4096


def test_a_context_that_no_memory_here_could_hold() -> None:
    with pytest.raises(ConfigError, match=r"could hold 196608 tokens on cpu .* than --max-model-len 33554432: set --max-model-len auto"):
        bounded(CPU)
    exact = {"kv_cache_memory_bytes": 10 << 20}  # which is told with the length that fits, once blocks are counted
    assert bounded(CPU, cache=exact).max_model_len == 2**25


def test_a_longer_context_than_the_model_s_own_is_taken_on_demand_only() -> None:
    with pytest.raises(ConfigError, match=r"above the model's own limit of 4096 tokens.*--allow-long-max-model-len"):
        make_plan(config(model={"max_model_len": 5000}), BF16, CPU)
    assert make_plan(config(model={"max_model_len": 5000, "allow_long_max_model_len": True}), BF16, CPU).max_model_len == 5000


def test_lower_limits_of_a_step() -> None:
    plan = make_plan(config(scheduler={"max_num_scheduled_tokens": 100, "max_num_active_seqs": 3}), BF16, CPU)
    assert (plan.max_num_scheduled_tokens, plan.max_num_batched_tokens) == (100, 512)
    assert (plan.max_num_active_seqs, plan.max_num_seqs) == (3, 64)
    plan = make_plan(config(), BF16, CPU)
    assert (plan.max_num_scheduled_tokens, plan.max_num_active_seqs) == (512, 64)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"max_num_scheduled_tokens": 513}, "--max-num-scheduled-tokens 513 is above --max-num-batched-tokens 512"),
        ({"max_num_active_seqs": 65}, "--max-num-active-seqs 65 is above --max-num-seqs 64"),
        ({"max_num_scheduled_tokens": 8, "enable_chunked_prefill": False}, "--max-num-scheduled-tokens splits prompts over steps"),
    ],
)
def test_lower_limits_that_can_t_be(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_plan(config(scheduler=asked), BF16, CPU)
