"""--attention-backend: the names that vLLM has for it, and what can't go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from headway.server.config.attention import AttentionKind
from headway.server.config.plan import DeviceFacts, ModelFacts, Plan, make_plan
from headway.server.config.server import ServerConfig
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError
from headway.server.words import GIB

GPU = DeviceFacts("cuda", "cuda:0", 140 * GIB, 130 * GIB, has_fast_bf16=True, has_fast_int8=False)
BF16 = ModelFacts("bfloat16", 4096, is_quantized_gguf=False)


@dataclass(frozen=True)
class Library:
    kind: AttentionKind
    name: str
    page_multiple: int = 1
    head_dims: frozenset[int] = frozenset((64, 128))
    is_capturable: bool = True


SECOND = Library("flash_attn_2", "FlashAttention 2.8.3", page_multiple=256)
INFER = Library("flashinfer", "FlashInfer 0.6.9", is_capturable=False)


def plan(library: Library | None, *, facts: ModelFacts = BF16, **topics: Any) -> Plan:
    backend = "auto" if library is None else "FLASHINFER" if library is INFER else "FLASH_ATTN"
    config = ServerConfig.model_validate({"attention": {"attention_backend": backend}, **topics})
    return make_plan(config, facts, GPU, library)


@pytest.mark.parametrize("text", ["FLASH_ATTN", "flash_attn", "FLASHINFER", "TRITON_ATTN", "auto"])
def test_names(text: str) -> None:
    for argv, environ in (([f"--attention-backend={text}"], {}), ([], {"SM_VLLM_ATTENTION_BACKEND": text})):
        asked = resolve(["demo", *argv], environ).config.attention.attention_backend
        assert asked == (text if text == "auto" else text.upper())


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--attention-backend=FLASHMLA"], "models with latent attention have Headway's own kernels: use auto (got 'FLASHMLA')"),
        (["--attention-backend=TORCH_SDPA"], "on a CPU there is one kind of kernels: use auto"),
        (["--attention-backend=XFORMERS"], "expected one of auto, TRITON_ATTN, FLASH_ATTN, FLASHINFER, got 'XFORMERS'"),
        (["--attention-backend=TRITON_ATTN", "--device=cpu"], "--attention-backend TRITON_ATTN is for GPUs, and this runs on a CPU"),
        (
            ["--attention-backend=FLASH_ATTN", "--decode-context-parallel-size=2", "--tensor-parallel-size=2"],
            "--attention-backend FLASH_ATTN does not go with --decode-context-parallel-size 2: ranks that share a sequence merge",
        ),
    ],
)
def test_what_is_refused_by_the_options_alone(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", *argv], {})
    (problem,) = caught.value.problems
    assert sentence in problem


def test_pages_are_as_the_library_reads_them() -> None:
    assert (plan(None).page_size, plan(None).attention) == (16, "own")
    second = plan(SECOND)
    assert (second.page_size, second.attention, second.graph_sizes) == (256, "flash_attn_2", plan(None).graph_sizes)
    assert plan(SECOND, cache={"block_size": 512}).page_size == 512
    assert plan(replace(SECOND, kind="flash_attn_3", page_multiple=1)).page_size == 16


def test_steps_that_the_host_plans_are_not_captured() -> None:
    assert plan(INFER).graph_sizes == ()


@pytest.mark.parametrize(
    ("library", "asked", "sentence"),
    [
        (
            SECOND,
            {"cache": {"block_size": 16}},
            "--attention-backend FLASH_ATTN: FlashAttention 2.8.3 reads pages of 256 tokens, and --block-size is 16: use a multiple of 256",
        ),
        (
            SECOND,
            {"model": {"dtype": "float32"}},
            "FlashAttention 2.8.3 computes in float16 and bfloat16, not in float32: set --dtype auto, or leave it out",
        ),
        (
            INFER,
            {"cache": {"kv_cache_dtype": "int8"}},
            "--attention-backend FLASHINFER: keys and values are read as the model has them, not in int8: set --kv-cache-dtype bfloat16",
        ),
        (INFER, {"facts": replace(BF16, has_fp8_cache=True)}, "not in float8_e4m3fn: set --kv-cache-dtype bfloat16"),
        (INFER, {"graphs": {"cudagraph_capture_sizes": ["1"]}}, "so none can be captured: leave out --cudagraph-capture-sizes"),
    ],
)
def test_what_a_library_can_not_take(library: Library, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(library, **asked)
    (problem,) = caught.value.problems
    assert sentence in problem
