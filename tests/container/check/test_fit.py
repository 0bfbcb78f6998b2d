"""What is estimated for an instance type, against engines that run here, and what it says where a model does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_model import demo_files
from engine_driver import make_engine
from tiny_encoders import TINY_CLASSIFIERS, TINY_ENCODERS, make_tiny_encoder
from tiny_models import TINY_MODELS, make_tiny_model

from headway.container.check.fit import FitReport, fit_report, fitting_instances
from headway.container.instances import Instance, find_instance
from headway.server.config.plan import make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE
from headway.server.engine.device import device_facts
from headway.server.engine.worker import Worker
from headway.server.errors import ConfigError
from headway.server.loading.loader import load_model
from headway.server.models.base import DecoderConfig
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.memory import activation_bytes
from headway.server.sizing.model import ModelShape, read_shape
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

# A model of 8 billion parameters, as its config.json has it.
LARGE: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "dtype": "bfloat16",
}


def this_machine() -> Instance:
    """As a CPU instance type."""
    facts = device_facts(torch.device("cpu"))
    return replace(find_instance("ml.m6i.xlarge"), memory_bytes=facts.total_bytes, has_fast_bf16=facts.has_fast_bf16)


def config_of(**topics: dict[str, Any]) -> ServerConfig:
    return ServerConfig.model_validate({"model": {"model": "m", **topics.pop("model", {})}, **topics})


def large(directory: Path, **changes: Any) -> ModelShape:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **LARGE, **changes}))
    files = ModelFiles("safetensors", directory, None, "large")
    return read_shape(config_of(), files)


def assert_as_the_engine(files: ModelFiles, **topics: dict[str, Any]) -> None:
    model = {"max_model_len": 64, "device": "cpu", **topics.pop("model", {})}
    topics = {"scheduler": {"max_num_seqs": 2}, **topics}
    config = config_of(model=model, **topics)
    engine = make_engine(files, model={"dtype": "auto", **model}, **topics)
    report = fit_report(config, read_shape(config, files), this_machine())
    info = engine.info
    assert report.problems == ()
    assert report.weight_bytes == pytest.approx(info.weight_bytes, rel=0.05)
    assert report.kv_cache_bytes == pytest.approx(info.kv_cache_bytes, rel=0.05)
    assert (report.dtype, report.weight_format) == (info.dtype, info.weight_format)
    assert (report.block_size, report.num_blocks) == (info.block_size, info.num_blocks)
    assert (report.max_model_len, report.max_num_seqs) == (info.max_model_len, info.max_num_seqs)
    assert report.max_num_batched_tokens == info.max_num_batched_tokens


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"quantization": "int8"},
        {"quantization": "gguf"},
        {"max_model_len": "auto"},
    ],
)
def test_the_demo_model_takes_what_was_estimated(model: dict[str, Any]) -> None:
    assert_as_the_engine(demo_files(), model=model)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_decoder_takes_what_was_estimated(tmp_path: Path, name: str) -> None:
    assert_as_the_engine(make_tiny_model(name, tmp_path))


@pytest.mark.parametrize("is_classifier", [False, True])
def test_every_model_that_pools_takes_what_was_estimated(tmp_path: Path, is_classifier: bool) -> None:
    for name in TINY_CLASSIFIERS if is_classifier else TINY_ENCODERS:
        assert_as_the_engine(make_tiny_encoder(name, tmp_path / name, is_classifier=is_classifier))


def test_a_decoder_served_for_vectors_takes_what_was_estimated(tmp_path: Path) -> None:
    assert_as_the_engine(make_tiny_model("qwen2", tmp_path), pooling={"runner": "pooling"})


def test_a_rank_has_its_share(tmp_path: Path) -> None:
    """Of weights and cache on a GPU of its own, of which there must be as many; on a CPU of the memory, too."""
    shape, instance = large(tmp_path), find_instance("ml.g5.12xlarge")
    one, four = (fit_report(config_of(parallel={"tensor_parallel_size": size}), shape, instance) for size in (1, 4))
    assert four.weight_bytes == pytest.approx(one.weight_bytes / 4, rel=0.01)
    assert four.bytes_per_block * 4 == one.bytes_per_block
    assert (four.num_ranks, four.device_bytes) == (4, one.device_bytes)
    assert four.longest_context > one.longest_context
    with pytest.raises(ConfigError, match="needs as many GPUs, and there are 4: use 4"):
        fit_report(config_of(parallel={"tensor_parallel_size": 8}), shape, instance)
    over_hosts = fit_report(config_of(parallel={"tensor_parallel_size": 8, "distributed_executor_backend": "ray"}), shape, instance)
    assert over_hosts.problems == (
        "8 ranks take 2 hosts of 4 GPUs: a Ray cluster may have them, "
        "the one instance of a SageMaker endpoint does not (docs/multi-node.md)",
    )
    fitting = fitting_instances(config_of(parallel={"tensor_parallel_size": 4}, model={"device": "cuda"}), shape)
    assert all(report.instance.num_gpus >= 4 for report in fitting)
    asked = (config_of(parallel={"tensor_parallel_size": size}, model={"device": "cpu"}) for size in (1, 2))
    on_cpu, split = (fit_report(config, shape, instance) for config in asked)
    assert on_cpu.fits
    assert split.fits
    assert split.num_blocks <= on_cpu.num_blocks  # two halves, each with the largest step beside it


def test_ranks_that_share_sequences_have_room_for_more_tokens(tmp_path: Path) -> None:
    """The copies of a key-value head become parts of one cache: as many times as many tokens in the same memory."""
    shape, instance = large(tmp_path, num_key_value_heads=2), find_instance("ml.g5.12xlarge")

    def report(num_context_ranks: int) -> FitReport:
        parallel = {"tensor_parallel_size": 4, "decode_context_parallel_size": num_context_ranks}
        return fit_report(config_of(parallel=parallel, model={"max_model_len": 8192}), shape, instance)

    plain, shared = report(1), report(2)
    assert (shared.num_blocks, shared.bytes_per_block) == (plain.num_blocks, plain.bytes_per_block)
    assert shared.num_kv_tokens == 2 * plain.num_kv_tokens
    assert shared.num_requests(8192) >= 2 * plain.num_requests(8192)
    with pytest.raises(ConfigError, match=r"on 2 devices; the nearest that works is 2$"):
        report(4)


def test_devices_that_share_prompts_share_their_cache(tmp_path: Path) -> None:
    """Each has the weights of one device."""
    shape, instance = large(tmp_path), find_instance("ml.g5.12xlarge")

    def report(num_shares: int) -> FitReport:
        parallel = {"prefill_context_parallel_size": num_shares}
        return fit_report(config_of(parallel=parallel, model={"max_model_len": 8192, "dtype": "bfloat16"}), shape, instance)

    plain, shared = report(1), report(4)
    assert shared.num_ranks == 4
    assert (shared.weight_bytes, shared.bytes_per_block) == (plain.weight_bytes, plain.bytes_per_block)
    assert shared.num_kv_tokens == 4 * plain.num_kv_tokens
    with pytest.raises(ConfigError, match=r"^--prefill-context-parallel-size 5 needs as many GPUs, and there are 4: use 4$"):
        report(5)


def test_the_largest_step_is_the_engines(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    config, device = config_of(model={"device": "cpu", "dtype": "float32"}), torch.device("cpu")
    shape = read_shape(config, files)
    plan = make_plan(config, shape.facts, device_facts(device))
    load = partial(load_model, files, dtype="float32", device=device, quantization="none", load_format="auto", group=SINGLE, seed=0)
    worker = Worker(load, plan, device, config.lora)
    report = fit_report(config, shape, this_machine())
    assert report.activation_bytes == worker.measure_activations(shape.config.vocab_size)
    assert report.bytes_per_block == worker.bytes_per_block


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_largest_step_takes_what_is_estimated_for_a_gpu(tmp_path: Path, dtype: str) -> None:
    """All that torch allocates in that step but the cache, which the CPU's pages are not part of. What is not proportional to tokens is
    small against it."""
    files = make_tiny_model("qwen3", tmp_path, hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3)
    config = config_of(model={"dtype": dtype}, scheduler={"max_num_batched_tokens": 512})
    shape, device = read_shape(config, files), torch.device("cpu")
    plan = make_plan(config, shape.facts, device_facts(device))
    load = partial(load_model, files, dtype=dtype, device=device, quantization="none", load_format="auto", group=SINGLE, seed=0)
    worker = Worker(load, plan, device, config.lora)
    with torch.profiler.profile(profile_memory=True) as profile:
        worker._forward_dummy(worker.loaded.model, worker._pages_for([512]), [512])
    events = (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert activation_bytes(shape.config, plan, itemsize(dtype)) == pytest.approx(peak, rel=0.05)


def test_a_model_on_a_gpu(tmp_path: Path) -> None:
    config = config_of(model={"max_model_len": 32768})
    report = fit_report(config, large(tmp_path), find_instance("ml.g6e.xlarge"))
    assert (report.device, report.dtype, report.fits) == ("cuda", "bfloat16", True)
    assert report.weight_bytes == 16_060_522_496  # 8.03 billion parameters
    assert report.bytes_per_block == 2 * 32 * 16 * 8 * 128 * 2
    used = report.reserved_bytes + report.weight_bytes + report.activation_bytes + report.kv_cache_bytes
    share = used / report.device_bytes
    assert 0.91 < share <= 0.92  # --gpu-memory-utilization
    assert report.num_requests(32768) == report.num_kv_tokens // 32768 >= 5
    assert report.num_requests(4096) == min(256, report.num_blocks // 256)
    assert report.num_requests(16) == 256  # a step's limit
    assert report.num_requests(32769) == 0
    assert report.tensor_parallel_sizes == (1, 2, 4, 8)
    assert report.vocabulary_sizes == (1, 2, 4, 8)


def test_a_mixture_on_gpus(tmp_path: Path) -> None:
    """Of 30 billion parameters, 3 of them active, as Qwen3-30B-A3B's config.json has it."""
    sizes = {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "vocab_size": 151936}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128}
    experts = {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True}
    shape = large(tmp_path, architectures=["Qwen3MoeForCausalLM"], **sizes, **heads, **experts)
    instance = find_instance("ml.g6e.12xlarge")
    alone = fit_report(config_of(), shape, instance)
    assert alone.weight_bytes == 2 * 30_532_122_624  # as the Hub counts its parameters
    for parallel in ({"tensor_parallel_size": 4}, {"tensor_parallel_size": 4, "enable_expert_parallel": True}):
        shared = fit_report(config_of(parallel=parallel), shape, instance)
        assert 4 * shared.weight_bytes == pytest.approx(alone.weight_bytes, rel=0.002)  # routers and norms are on each
        assert shared.tensor_parallel_sizes == (1, 2, 4, 8)
        assert shared.fits


def test_a_context_that_does_not_fit(tmp_path: Path) -> None:
    """The sentence is the engine's own; auto takes what it names."""
    shape, instance = large(tmp_path), find_instance("ml.g6.xlarge")
    report = fit_report(config_of(), shape, instance)
    assert not report.fits
    assert "fewer than --max-model-len 131072" in report.problems[0]
    assert 0 < report.longest_context < 131072
    assert f"set --max-model-len {report.longest_context} or auto" in report.problems[0]
    assert report.num_requests(16) == 0
    auto = fit_report(config_of(model={"max_model_len": "auto"}), shape, instance)
    assert auto.fits
    assert auto.max_model_len == auto.longest_context == report.longest_context
    assert fit_report(config_of(model={"max_model_len": report.longest_context}), shape, instance).fits
    longer = report.longest_context + 1024  # the table of positions is a little shorter than auto's
    assert not fit_report(config_of(model={"max_model_len": longer}), shape, instance).fits


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    report = fit_report(config_of(), large(tmp_path, num_hidden_layers=80), find_instance("ml.g6.12xlarge"))
    assert "the model needs" in report.problems[0]
    assert "of the 22.5 GiB there are" in report.problems[0]  # of one of its four GPUs
    assert (report.num_blocks, report.longest_context) == (0, 0)


def test_an_exact_cache_that_does_not_fit(tmp_path: Path) -> None:
    config = config_of(model={"max_model_len": 1024}, cache={"kv_cache_memory_bytes": 8 * GIB})
    report = fit_report(config, large(tmp_path), find_instance("ml.g6.xlarge"))
    assert "asked to take 8.0 GiB" in report.problems[0]
    assert fit_report(config, large(tmp_path), find_instance("ml.g6e.xlarge")).kv_cache_bytes == 8 * GIB


def test_copies_of_blocks_take_the_hosts_memory(tmp_path: Path) -> None:
    def report(instance: str, size: float, **topics: dict[str, Any]) -> FitReport:
        config = config_of(model={"max_model_len": 16384}, kv_transfer={"kv_offloading_size": size}, **topics)
        return fit_report(config, large(tmp_path), find_instance(instance))

    on_gpu = report("ml.g6e.xlarge", 8)
    assert (on_gpu.fits, on_gpu.offload_bytes) == (True, 8 * GIB)
    assert on_gpu.kv_cache_bytes == report("ml.g6e.xlarge", 0).kv_cache_bytes
    assert "KV offload asks for 64.0 GiB of the host's memory" in report("ml.g6e.xlarge", 64).problems[0]
    assert "KV offload asks for 1000.0 GiB" in report("ml.m6i.32xlarge", 1000).problems[0]
    assert report("ml.m6i.32xlarge", 250).kv_cache_bytes < report("ml.m6i.32xlarge", 0).kv_cache_bytes
    both = report("ml.m6i.32xlarge", 8, data_parallel={"data_parallel_size": 2})
    assert both.offload_bytes == 16 * GIB


def test_adapters_take_their_room(tmp_path: Path) -> None:
    shape, instance = large(tmp_path), find_instance("ml.g6e.xlarge")
    without = fit_report(config_of(model={"max_model_len": 4096}), shape, instance)
    report = fit_report(config_of(model={"max_model_len": 4096}, lora={"enable_lora": True, "max_lora_rank": 64}), shape, instance)
    assert report.adapter_bytes > GIB / 2
    missing = without.kv_cache_bytes - report.kv_cache_bytes
    assert abs(missing - report.adapter_bytes) <= report.bytes_per_block


@pytest.mark.parametrize(
    ("instance", "model", "words"),
    [
        ("ml.c6i.4xlarge", {"device": "cuda"}, "has no GPU"),
        ("ml.p3.2xlarge", {}, "compute capability 7.0"),
        ("ml.g6.xlarge", {"quantization": "gguf"}, "--quantization gguf keeps the weights of a quantised GGUF, and this model is none"),
    ],
)
def test_what_can_not_run_there(tmp_path: Path, instance: str, model: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_report(config_of(model=model), large(tmp_path), find_instance(instance))


def test_each_engine_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    shape, instance = large(tmp_path), find_instance("ml.g6.12xlarge")
    one, four, five = (config_of(model={"max_model_len": 8192}, data_parallel={"data_parallel_size": count}) for count in (1, 4, 5))
    report = fit_report(four, shape, instance)
    assert report == replace(fit_report(one, shape, instance), num_engines=4)
    with pytest.raises(ConfigError, match=r"--data-parallel-size 5 needs a GPU for each engine, and ml.g6.12xlarge has 4: lower it"):
        fit_report(five, shape, instance)
    assert {report.instance.num_gpus >= 4 for report in fitting_instances(four, shape) if report.device == "cuda"} == {True}


def test_a_stage_has_its_layers(tmp_path: Path) -> None:
    """What is told is of the stage with the least room: the last one, whose logits the others don't have."""
    shape, instance = large(tmp_path), find_instance("ml.g5.12xlarge")
    one, four = (fit_report(config_of(parallel={"pipeline_parallel_size": size}), shape, instance) for size in (1, 4))
    assert four.bytes_per_block * 4 == one.bytes_per_block
    table = 128256 * 4096 * 2
    assert four.weight_bytes == pytest.approx((one.weight_bytes - 2 * table) / 4 + table, rel=0.01)
    assert (four.num_ranks, four.num_stages, four.most_stages) == (4, 4, 32)
    assert four.longest_context > one.longest_context
    for size, tensor, told in (
        (8, 1, "^--pipeline-parallel-size 8 needs as many GPUs, and there are 4: use 4$"),
        (4, 2, "^--pipeline-parallel-size 4 needs 8 GPUs with --tensor-parallel-size 2, and there are 4: use 2$"),
        (33, 1, "this model has 32 layers, and each stage needs one; the nearest that works is 4$"),
    ):
        asked = config_of(parallel={"pipeline_parallel_size": size, "tensor_parallel_size": tensor})
        with pytest.raises(ConfigError, match=told):
            fit_report(asked, shape, instance)


def test_each_engine_has_a_gpu_for_each_rank(tmp_path: Path) -> None:
    shape, instance = large(tmp_path), find_instance("ml.g6.12xlarge")

    def config(num_engines: int, num_ranks: int) -> ServerConfig:
        topics = {"data_parallel": {"data_parallel_size": num_engines}, "parallel": {"tensor_parallel_size": num_ranks}}
        return config_of(model={"max_model_len": 8192}, **topics)

    report = fit_report(config(2, 2), shape, instance)
    assert report == replace(fit_report(config(1, 2), shape, instance), num_engines=2)
    told = "--data-parallel-size 2 with --tensor-parallel-size 4 needs 8 GPUs, and ml.g6.12xlarge has 4: lower one of them"
    with pytest.raises(ConfigError, match=told):
        fit_report(config(2, 4), shape, instance)
    assert {report.instance.num_gpus >= 4 for report in fitting_instances(config(2, 2), shape) if report.device == "cuda"} == {True}


def test_ranks_of_engines_share_a_host(tmp_path: Path) -> None:
    """As the engines measure it: what is free beside the weights of all, a rank's part of it, and a quarter of that for the engines."""
    shape, host = large(tmp_path), find_instance("ml.m6i.8xlarge")
    topics = {"data_parallel": {"data_parallel_size": 2}, "parallel": {"tensor_parallel_size": 2}}
    report = fit_report(config_of(model={"max_model_len": 512}, **topics), shape, host)
    assert report.fits
    config = shape.config
    assert isinstance(config, DecoderConfig)
    taken = 4 * (report.weight_bytes + 512 * config.rope.rotary_dim * 4)
    room = (report.device_bytes - report.reserved_bytes - taken) // 2 // 4 // 2 - report.activation_bytes
    assert report.num_blocks == min(room // report.bytes_per_block, report.max_num_seqs * 512 // report.block_size)
    (problem,) = fit_report(
        config_of(model={"max_model_len": 512}, cache={"kv_cache_memory_bytes": 30 * GIB}, **topics), shape, host
    ).problems
    assert problem.startswith("the KV cache is asked to take 60.0 GiB")  # of a rank, by both engines


def test_engines_share_a_host(tmp_path: Path) -> None:
    shape, host = large(tmp_path), find_instance("ml.m6i.8xlarge")

    def report(count: int, **cache: int) -> FitReport:
        return fit_report(config_of(model={"max_model_len": 512}, data_parallel={"data_parallel_size": count}, cache=cache), shape, host)

    assert report(1).fits
    assert 2.9 < report(1).kv_cache_bytes / report(3).kv_cache_bytes < 6
    (problem,) = report(9).problems
    assert problem.startswith("the model needs ")
    gib = 40 * GIB
    assert report(1, kv_cache_memory_bytes=gib).fits
    (problem,) = report(2, kv_cache_memory_bytes=gib).problems
    assert problem.startswith("the KV cache is asked to take 80.0 GiB")


def test_a_gpu_instance_as_a_host(tmp_path: Path) -> None:
    report = fit_report(config_of(model={"device": "cpu", "max_model_len": 1024}), large(tmp_path), find_instance("ml.g6.4xlarge"))
    assert (report.device, report.device_bytes) == ("cpu", 64 * GIB)


def test_fitting_instances_are_told_with_the_least_memory_first(tmp_path: Path) -> None:
    config, shape = config_of(model={"max_model_len": 8192}), large(tmp_path)
    reports = fitting_instances(config, shape)
    assert all(report.fits for report in reports)
    keys = [(report.instance.gpu_bytes, report.instance.num_gpus, report.instance.memory_bytes) for report in reports]
    assert keys == sorted(keys)
    on_gpus = [report for report in reports if report.device == "cuda"]
    assert on_gpus[0].instance.name == "ml.g5.xlarge"
    names = {report.instance.name for report in reports}
    assert names.isdisjoint({"ml.g4dn.xlarge", "ml.p3.2xlarge", "ml.c6i.large"})
    only_gpus = fitting_instances(config_of(model={"max_model_len": 8192, "quantization": "fp8"}), shape)
    assert {report.device for report in only_gpus} == {"cuda"}


def test_requests_of_a_model_that_pools(tmp_path: Path) -> None:
    files = make_tiny_encoder("bert", tmp_path)
    config = config_of()
    report = fit_report(config, read_shape(config, files), find_instance("ml.g6.xlarge"))
    assert (report.pools, report.bytes_per_block, report.kv_cache_bytes, report.num_kv_tokens) == (True, 0, 0, 0)
    assert report.longest_context == report.max_model_len == 130
    assert report.num_requests(128) == 2048 // 128
    assert report.num_requests(1) == 256


def test_it_takes_no_torch(tmp_path: Path) -> None:
    """It stands in a command that answers in under a second."""
    large(tmp_path)
    script = f"""
import sys
from pathlib import Path
from headway.container.check.fit import fitting_instances
from headway.server.config.server import ServerConfig
from headway.server.sizing.model import read_shape
from headway.server.source.files import ModelFiles
config = ServerConfig.model_validate({{"model": {{"model": "m"}}}})
assert fitting_instances(config, read_shape(config, ModelFiles("safetensors", Path({str(tmp_path)!r}), None, "m")))
heavy = {{"torch", "triton", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_reports_of_types_differ_in_their_memory_alone(tmp_path: Path) -> None:
    shape = large(tmp_path)
    reports: list[FitReport] = [
        fit_report(config_of(model={"max_model_len": 1024}), shape, find_instance(name)) for name in ("ml.g6.xlarge", "ml.g6.48xlarge")
    ]
    assert replace(reports[0], instance=reports[1].instance) == reports[1]  # one device of eight


@pytest.mark.parametrize(
    ("instance", "words"),
    [("ml.c7i.xlarge", "--attention-backend FLASH_ATTN is for GPUs"), ("ml.g6e.xlarge", "FLASH_ATTN: this model has attention sinks")],
)
def test_a_librarys_attention_on_what_it_is_not_for(instance: str, words: str, tmp_path: Path) -> None:
    config = config_of(attention={"attention_backend": "FLASH_ATTN"})
    with pytest.raises(ConfigError, match=words):
        fit_report(config, read_shape(config, make_tiny_model("gpt-oss", tmp_path)), find_instance(instance))
