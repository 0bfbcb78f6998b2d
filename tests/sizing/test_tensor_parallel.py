"""Which numbers of devices a model can be split over, and what each of them holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_ranks
from tiny_models import make_tiny_model

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import DeviceFacts, Quantization, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.errors import ConfigError
from headway.server.loading.loader import load_model
from headway.server.models.base import DecoderConfig
from headway.server.sizing.expert_balancing import check_balancing
from headway.server.sizing.memory import kv_spec
from headway.server.sizing.model import ModelShape, read_shape
from headway.server.sizing.pipeline_parallel import shares
from headway.server.sizing.prompt_shares import check_prompt_shares
from headway.server.sizing.tensor_parallel import check_context, check_split, rank_share
from headway.server.sizing.weights import weight_bytes

FACTS = DeviceFacts("cpu", "cpu", 2**34, 2**33, has_fast_bf16=False, has_fast_int8=True)


def shape_of(directory: Path, name: str) -> tuple[ServerConfig, ModelShape]:
    files = make_tiny_model(name, directory)
    config = ServerConfig.model_validate({"model": {"model": files.name, "dtype": "float32"}})
    return config, read_shape(config, files)


@pytest.mark.parametrize(
    ("size", "num_devices", "told"),
    [
        (2, None, "this model has 9 attention heads, 3 key-value heads and a feed-forward layer of 1536, .* that works is 3$"),
        (2, 2, "that works is 1$"),
        (4, None, "that works is 3$"),
        (8, None, "that works is 9$"),
        (3, 2, "needs as many GPUs, and there are 2: use 1$"),
    ],
)
def test_the_nearest_that_works_is_named(tmp_path: Path, size: int, num_devices: int | None, told: str) -> None:
    _, shape = shape_of(tmp_path, "llama")
    assert isinstance(shape.config, DecoderConfig)
    demo = replace(shape.config, num_heads=9, num_kv_heads=3, head_dim=64, intermediate_size=1536, vocab_size=49152)
    if size == 8:
        demo = replace(demo, intermediate_size=1539)  # nine divide it
    with pytest.raises(ConfigError, match=f"^--tensor-parallel-size {size}.*{told}"):
        check_split(size, demo, quantization="none", num_devices=num_devices)
    check_split(3, replace(demo, intermediate_size=1536), quantization="gguf", num_devices=None)


@pytest.mark.parametrize(
    ("context", "size", "told"),
    [
        (2, 8, None),
        (4, 8, None),
        (8, 8, "with --tensor-parallel-size 8 a key-value head of this model is on 4 devices; the nearest that works is 4$"),
        (3, 16, "on 8 devices; the nearest that works is 4$"),
        (2, 2, "on one device alone; the nearest that works is 1$"),
        (2, 1, "on one device alone; the nearest that works is 1$"),
    ],
)
def test_devices_share_sequences_where_they_hold_the_same_heads(tmp_path: Path, context: int, size: int, told: str | None) -> None:
    _, shape = shape_of(tmp_path, "llama")  # two key-value heads
    parallel = ParallelConfig(tensor_parallel_size=size, decode_context_parallel_size=context)
    check_context(parallel.model_copy(update={"prefill_context_parallel_size": context}), shape.config)  # which does that anyway
    if told is None:
        check_context(parallel, shape.config)
    else:
        with pytest.raises(ConfigError, match=f"^--decode-context-parallel-size {context}: .*{told}"):
            check_context(parallel, shape.config)


def test_blocks_of_a_gguf_are_not_torn(tmp_path: Path) -> None:
    _, shape = shape_of(tmp_path, "llama")
    assert isinstance(shape.config, DecoderConfig)
    wide = replace(shape.config, num_heads=4, num_kv_heads=4, head_dim=32, intermediate_size=96 + 32, vocab_size=64)
    check_split(4, wide, quantization="gguf", num_devices=None)
    for torn in (replace(wide, intermediate_size=96), replace(wide, head_dim=24), replace(wide, vocab_size=66)):
        check_split(4, torn, quantization="none", num_devices=None)
        with pytest.raises(ConfigError, match=r"can't be cut in 4; use [12], or --quantization none"):
            check_split(4, torn, quantization="gguf", num_devices=None)
    with pytest.raises(ConfigError, match=r"the nearest that works is 1$"):  # not 2, which tears them
        check_split(3, replace(wide, intermediate_size=96), quantization="gguf", num_devices=None)
    with pytest.raises(ConfigError, match="can't be cut in 2; use 1, or"):  # what no size keeps is kept whole
        check_split(2, replace(wide, intermediate_size=100), quantization="gguf", num_devices=None)


@pytest.mark.parametrize(("name", "size"), [("llama", 2), ("llama-three", 3), ("qwen3", 4), ("llama-biased", 2), ("llama-tied", 4)])
def test_a_ranks_share_is_what_it_loads(tmp_path: Path, name: str, size: int) -> None:
    config, shape = shape_of(tmp_path, name)
    files = make_tiny_model(name, tmp_path)

    def work(group: TensorParallelGroup) -> tuple[int, int]:
        device = torch.device("cpu")
        loaded = load_model(files, dtype="float32", device=device, quantization="none", load_format="auto", group=group, seed=0)
        return loaded.weight_bytes, loaded.model.kv_spec.num_kv_heads

    share = rank_share(shape, size)
    plan = make_plan(config, shape.facts, FACTS)
    assert run_ranks(size, work) == [(weight_bytes(share, plan, on_cpu=True), kv_spec(share.config).num_kv_heads)] * size


@pytest.mark.parametrize("has_whole_experts", [False, True], ids=["cut", "whole"])
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "gpt-oss"])
def test_a_ranks_share_of_a_mixture(tmp_path: Path, name: str, has_whole_experts: bool) -> None:
    """Ranks that hold whole experts may have one less than others, or lack biases: the most is reckoned."""
    config, shape = shape_of(tmp_path, name)
    files = make_tiny_model(name, tmp_path)

    def work(group: TensorParallelGroup) -> int:
        return load_model(
            files,
            dtype="float32",
            device=torch.device("cpu"),
            quantization="none",
            load_format="auto",
            group=group,
            seed=0,
            has_whole_experts=has_whole_experts,
        ).weight_bytes

    share = rank_share(shape, 2, has_whole_experts=has_whole_experts)
    plan = make_plan(config, shape.facts, FACTS)
    assert max(run_ranks(2, work)) == weight_bytes(share, plan, on_cpu=True)


@pytest.mark.parametrize(
    ("name", "sizes", "num_devices", "told"),
    [
        ("gpt-oss", (1, 2), None, "--prefill-context-parallel-size 2: this model has attention sinks"),
        ("llama", (1, 3), 2, "--prefill-context-parallel-size 3 needs as many GPUs, and there are 2: use 2$"),
        ("llama", (2, 4), 6, "--prefill-context-parallel-size 4 needs 8 GPUs with --tensor-parallel-size 2, and there are 6: use 3$"),
    ],
)
def test_devices_that_can_not_share_prompts(tmp_path: Path, name: str, sizes: tuple[int, int], num_devices: int | None, told: str) -> None:
    _, shape = shape_of(tmp_path, name)
    parallel = ParallelConfig(tensor_parallel_size=sizes[0], prefill_context_parallel_size=sizes[1])
    with pytest.raises(ConfigError, match=f"^{told}"):
        check_prompt_shares(parallel, shape.config, num_devices=num_devices)


def test_prompts_of_a_model_that_runs_through_transformers_stay_whole(tmp_path: Path) -> None:
    """Else its modules would get all tokens, and its attention the places of some."""
    config = make_tiny_model("llama", tmp_path)
    asked = ServerConfig.model_validate({"model": {"device": "cpu", "model_impl": "transformers"}})
    parallel = ParallelConfig(prefill_context_parallel_size=2)
    with pytest.raises(ConfigError, match="a model that runs through transformers computes all tokens of a step; use --tensor-parallel"):
        check_prompt_shares(parallel, read_shape(asked, config).config, num_devices=None)


def test_a_ranks_share_of_experts_that_move(tmp_path: Path) -> None:
    _, shape = shape_of(tmp_path, "mixtral")
    files = make_tiny_model("mixtral", tmp_path)
    topic = {"tensor_parallel_size": 2, "enable_expert_parallel": True, "enable_eplb": True, "eplb_config": {"num_redundant_experts": 3}}
    config = ServerConfig.model_validate({"model": {"device": "cpu", "dtype": "float32"}, "parallel": topic})

    def work(group: TensorParallelGroup) -> int:
        how: dict[str, Any] = {"quantization": "none", "load_format": "auto", "seed": 0}
        whole: dict[str, Any] = {"has_whole_experts": True, "num_redundant_experts": 3}
        return load_model(files, dtype="float32", device=torch.device("cpu"), group=group, **how, **whole).weight_bytes

    (share,) = shares(shape, config.parallel, "none")
    assert run_ranks(2, work) == [weight_bytes(share, make_plan(config, shape.facts, FACTS), on_cpu=True)] * 2


@pytest.mark.parametrize(
    ("num_ranks", "num_redundant", "quantization", "told"),
    [
        (2, 0, "none", "5 experts and 0 redundant ones are not shared evenly by 2 ranks; the nearest .* num_redundant_experts 1 in"),
        (2, 7, "none", "with 7 redundant ones a rank would have one of the 5 experts twice; the nearest .* num_redundant_experts 5 in"),
        (4, 1, "none", "5 experts and 1 redundant one are not shared evenly by 4 ranks; the nearest .* num_redundant_experts 3 in"),
        (2, 1, "int8", "experts that are kept quantised are packed for this machine's products, .* or add --quantization none"),
    ],
)
def test_which_ranks_can_have_experts_that_move(
    tmp_path: Path, num_ranks: int, num_redundant: int, quantization: Quantization, told: str
) -> None:
    _, shape = shape_of(tmp_path, "mixtral")
    asked: dict[str, Any] = {"enable_eplb": True, "eplb_config": {"num_redundant_experts": num_redundant}}
    parallel = ParallelConfig(tensor_parallel_size=num_ranks, enable_expert_parallel=True, **asked)
    with pytest.raises(ConfigError, match=f"^--enable-eplb: {told}"):
        check_balancing(parallel, shape.config, quantization)


def test_which_ranks_can_share_experts(tmp_path: Path) -> None:
    _, shape = shape_of(tmp_path, "mixtral")
    assert isinstance(shape.config, DecoderConfig)
    assert shape.config.mixture is not None
    odd = replace(shape.config, mixture=replace(shape.config.mixture, intermediate_size=97))
    check_split(2, odd, quantization="none", num_devices=None, has_whole_experts=True)
    with pytest.raises(ConfigError, match="2 key-value heads and a feed-forward layer of 97, which 2 devices can't share"):
        check_split(2, odd, quantization="none", num_devices=None)
    many = replace(odd, num_heads=8, mixture=replace(shape.config.mixture, num_experts=5))
    with pytest.raises(ConfigError, match=r"2 key-value heads and 5 experts, which 8 devices can't share; the nearest that works is 4$"):
        check_split(8, many, quantization="none", num_devices=None, has_whole_experts=True)
    plain = replace(odd, mixture=None)
    with pytest.raises(ConfigError, match=r"^--enable-expert-parallel is for mixtures of experts, and this model is none: leave it out$"):
        check_split(1, plain, quantization="none", num_devices=None, has_whole_experts=True)
