"""What is reckoned from a model's shape is what the engine's own layers hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_model import demo_files
from engine_driver import make_engine
from gguf_files import convert_to_gguf
from tiny_encoders import TINY_CLASSIFIERS, TINY_ENCODERS, make_tiny_encoder
from tiny_models import TINY_MODELS, make_tiny_model

from headway.kernels.cpu.native.library import library
from headway.server.config.plan import DeviceFacts, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE, TensorParallelGroup
from headway.server.engine.lora import AdapterSlots
from headway.server.errors import ConfigError, ModelSourceError
from headway.server.layers.quant.unquantized import UnquantizedLinear
from headway.server.loading.loader import Quantization, load_model
from headway.server.loading.model_config import open_model
from headway.server.loading.pooled import load_pooled_model
from headway.server.loading.pooled_files import read_pooled
from headway.server.models.base import BuildContext, LoadedModel
from headway.server.sizing.memory import kv_spec, rope_table_bytes
from headway.server.sizing.model import ModelShape, chosen_use, read_shape
from headway.server.sizing.tensor_parallel import tensor_parallel_sizes
from headway.server.sizing.weights import adapter_bytes, weight_bytes, weight_format, weight_shapes
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

CPU = torch.device("cpu")
FACTS = DeviceFacts("cpu", "cpu", 24 * GIB, 20 * GIB, has_fast_bf16=False, has_fast_int8=True)


def config_of(files: ModelFiles, **topics: dict[str, Any]) -> ServerConfig:
    return ServerConfig.model_validate({"model": {"model": files.name, **topics.pop("model", {})}, **topics})


def load(files: ModelFiles, dtype: str, quantization: Quantization = "none") -> LoadedModel:
    return load_model(files, dtype=dtype, device=CPU, quantization=quantization, load_format="auto", group=SINGLE, seed=0)


def load_pooled(files: ModelFiles, is_classifier: bool, dtype: str) -> LoadedModel:
    source = read_pooled(files, is_classifier)
    return load_pooled_model(
        source, dtype=dtype, device=CPU, load_format="auto", group=SINGLE, seed=0, max_model_len=source.config.max_model_len
    )


def assert_same_shapes(shape: ModelShape, loaded: LoadedModel) -> None:
    found = weight_shapes(shape)
    shapes = {name: linear.shape for name, linear in found.linears.items()} | found.others
    expanded = {name: own for pattern, own in shapes.items() for name in found.names(pattern)}
    assert len(expanded) == sum(map(found.count, shapes))
    assert expanded == {name: weight.shape for name, weight in loaded.model.named_weights()}
    assert kv_spec(shape.config, shape.stage) == loaded.model.kv_spec


def assert_same_bytes(shape: ModelShape, config: ServerConfig, loaded: LoadedModel) -> None:
    plan = make_plan(config, shape.facts, FACTS)
    assert weight_bytes(shape, plan, on_cpu=True) == loaded.weight_bytes
    assert weight_format(plan, shape.config) == loaded.weight_format


@pytest.mark.parametrize("name", TINY_MODELS)
def test_weights_of_decoders(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    shape = read_shape(config_of(files), files)
    assert_same_shapes(shape, load(files, "float32"))
    for dtype in ("float32", "bfloat16", "float16"):
        assert_same_bytes(shape, config_of(files, model={"dtype": dtype}), load(files, dtype))
    assert_same_bytes(shape, config_of(files, model={"quantization": "int8"}), load(files, "float32", "int8"))


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("float32", "int8"), ("float32", "gguf")])
def test_weights_of_a_gguf(dtype: str, quantization: Quantization) -> None:
    files = demo_files()
    config = config_of(files, model={"dtype": dtype, "quantization": quantization})
    shape = read_shape(config, files)
    loaded = load(files, dtype, quantization)
    assert_same_bytes(shape, config, loaded)
    if quantization == "none":
        assert_same_shapes(shape, loaded)


@pytest.mark.parametrize("has_whole_latents", [False, True])
def test_weights_of_latents_in_a_gguf(tmp_path: Path, has_whole_latents: bool) -> None:
    """Which are dequantised, while the experts behind them keep their 4 bits."""
    original = make_tiny_model("deepseek-v2", tmp_path / "hf", intermediate_size=128, v_head_dim=16)
    metadata = {"rope.scaling.yarn_log_multiplier": 0.1}
    path = tmp_path / "m.gguf"
    files = convert_to_gguf(original, path, "deepseek2", type_name="Q4_0", metadata=metadata, has_whole_latents=has_whole_latents)
    config = config_of(files, model={"dtype": "float32", "quantization": "gguf"})
    assert_same_bytes(read_shape(config, files), config, load(files, "float32", "gguf"))


@pytest.mark.parametrize("is_classifier", [False, True])
def test_weights_of_models_that_pool(tmp_path: Path, is_classifier: bool) -> None:
    for name in TINY_CLASSIFIERS if is_classifier else TINY_ENCODERS:
        files = make_tiny_encoder(name, tmp_path / name, is_classifier=is_classifier)
        shape = read_shape(config_of(files), files)
        assert shape.use == ("classify" if is_classifier else "embed")
        assert_same_shapes(shape, load_pooled(files, is_classifier, "float32"))
        for dtype in ("float32", "bfloat16"):
            assert_same_bytes(shape, config_of(files, model={"dtype": dtype}), load_pooled(files, is_classifier, dtype))


@pytest.mark.parametrize("name", ["qwen2", "qwen3-moe"])
def test_a_decoder_that_pools_has_no_head(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    config = config_of(files, pooling={"runner": "pooling"})
    shape = read_shape(config, files)
    assert (shape.use, shape.facts.pools, shape.facts.computes_whole_texts) == ("embed", True, False)
    assert_same_shapes(shape, load_pooled(files, False, "float32"))
    assert_same_bytes(shape, config_of(files, model={"dtype": "float32"}), load_pooled(files, False, "float32"))


def test_a_gpu_keeps_one_table_where_the_head_is_tied(tmp_path: Path) -> None:
    files = make_tiny_model("llama-tied", tmp_path)
    shape = read_shape(config_of(files), files)
    plan = make_plan(config_of(files, model={"dtype": "float32"}), shape.facts, FACTS)
    table = shape.config.vocab_size * shape.config.hidden_size * 4
    assert weight_bytes(shape, plan, on_cpu=True) - weight_bytes(shape, plan, on_cpu=False) == table


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_room_for_adapters(tmp_path: Path, name: str) -> None:
    files = make_tiny_model(name, tmp_path)
    config = config_of(files, model={"dtype": "float32"}, lora={"enable_lora": True, "max_loras": 3, "max_lora_rank": 5})
    shape = read_shape(config, files)
    slots = AdapterSlots(load(files, "float32"), config.lora, 1, dtype=torch.float32, device=CPU)
    plan = make_plan(config, shape.facts, FACTS)
    assert adapter_bytes(shape, plan, config.lora) == sum(tensor.nbytes for tensor in slots.tensors())
    assert adapter_bytes(shape, plan, config_of(files).lora) == 0


def test_room_for_adapters_in_8_bits(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("the CPU kernels were not built")
    files = make_tiny_model("qwen2", tmp_path)
    facts = replace(FACTS, multiplies_gguf=True)
    for rank in (3, 16, 21):
        lora = {"enable_lora": True, "max_loras": 3, "max_lora_rank": rank}
        config = config_of(files, model={"dtype": "float32", "quantization": "int4"}, lora=lora)
        shape = read_shape(config, files)
        plan = make_plan(config, shape.facts, facts)
        slots = AdapterSlots(load(files, "float32", "int4"), config.lora, 1, dtype=getattr(torch, plan.adapter_dtype), device=CPU)
        assert plan.adapter_dtype == "int8"
        assert adapter_bytes(shape, plan, config.lora) == sum(tensor.nbytes for tensor in slots.tensors())


def test_table_of_rotary_positions(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    config = config_of(files, model={"max_model_len": 100})
    shape = read_shape(config, files)
    loaded = load_model(
        files, dtype="float32", device=CPU, quantization="none", load_format="auto", group=SINGLE, seed=0, max_model_len=100
    )
    table: Any = loaded.model
    assert rope_table_bytes(shape.config, make_plan(config, shape.facts, FACTS)) == sum(own.nbytes for own in table._rope_tables)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (1, 2, 4)),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, (1, 2, 4, 8)),
        ({"num_attention_heads": 12, "num_key_value_heads": 6, "hidden_size": 96}, (1, 2, 3, 6)),
        ({"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 98}, (1, 2)),
    ],
)
def test_sizes_that_cut_a_decoder(tmp_path: Path, changes: dict[str, Any], sizes: tuple[int, ...]) -> None:
    files = make_tiny_model("llama", tmp_path, **changes)
    family, config, _ = open_model(files, {})

    def build(group: TensorParallelGroup) -> None:
        family.build(config, BuildContext(torch.float32, CPU, UnquantizedLinear(torch.float32, CPU), group, 32))

    assert tensor_parallel_sizes(config) == sizes == _built(build)


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_sizes_that_cut_an_encoder(tmp_path: Path, name: str) -> None:
    files = make_tiny_encoder(name, tmp_path)
    config = read_shape(config_of(files), files).config
    assert tensor_parallel_sizes(config) == ((1,) if name == "modernbert" else (1, 2, 4))


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**15), ("hidden_size", 0), ("num_attention_heads", -1)])
@pytest.mark.parametrize("name", ["mistral", "modernbert"])
def test_sizes_that_no_model_has(tmp_path: Path, name: str, key: str, value: int) -> None:
    files = make_tiny_model(name, tmp_path) if name == "mistral" else make_tiny_encoder(name, tmp_path)
    with pytest.raises(ModelSourceError, match=f"{key} must be from 1 to"):
        read_shape(config_of(files, model={"hf_overrides": {key: value, "layer_types": None}}), files)


@pytest.mark.parametrize(("rounding", "least"), [({"dtype": "float32"}, 2**27), ({"quantization": "int4"}, 2**24)], ids=["plain", "int4"])
def test_the_most_layers_are_counted_without_naming_them(tmp_path: Path, rounding: dict[str, str], least: int) -> None:
    files = make_tiny_model("llama", tmp_path)
    config = config_of(files, model={**rounding, "hf_overrides": {"num_hidden_layers": 4096}})
    shape = read_shape(config, files)
    assert len(weight_shapes(shape).others) < 20
    assert weight_bytes(shape, make_plan(config, shape.facts, replace(FACTS, multiplies_gguf=True)), on_cpu=True) > least


def test_options_that_a_model_has_no_use_for(tmp_path: Path) -> None:
    encoder = make_tiny_encoder("bert", tmp_path)
    with pytest.raises(ConfigError) as refused:
        chosen_use(config_of(encoder, model={"quantization": "int8"}, lora={"enable_lora": True}), encoder)
    assert [problem.split(" is ")[0] for problem in refused.value.problems] == ["--quantization int8", "--enable-lora"]
    with pytest.raises(ConfigError, match="a GGUF file has none"):
        make_engine(demo_files(), model={"hf_overrides": {"vocab_size": 1}})


def _built(build: Callable[[TensorParallelGroup], None]) -> tuple[int, ...]:
    """The numbers of ranks over which the layers let themselves be made."""
    found = []
    for size in range(1, 9):
        unused: Any = object()  # nothing is communicated while layers are made
        try:
            build(TensorParallelGroup(0, size, unused))
        except ModelSourceError:
            continue
        found.append(size)
    return tuple(found)
