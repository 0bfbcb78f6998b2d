"""What a rank of each stage holds is what it loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_model

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import DeviceFacts, Quantization, make_plan
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE
from headway.server.errors import ConfigError
from headway.server.loading.loader import load_model
from headway.server.sizing.memory import kv_spec
from headway.server.sizing.model import read_shape
from headway.server.sizing.pipeline_parallel import check_stages, shares
from headway.server.sizing.weights import weight_bytes, weight_shapes

FACTS = DeviceFacts("cpu", "cpu", 2**34, 2**33, has_fast_bf16=False, has_fast_int8=True)


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize(
    ("name", "num_stages"), [("llama", 2), ("llama-tied", 2), ("qwen2", 3), ("qwen3", 1), ("gemma2", 3), ("gpt2", 2), ("qwen2-moe", 3)]
)
def test_a_stages_share_is_what_it_loads(tmp_path: Path, name: str, num_stages: int, quantization: Quantization) -> None:
    files = make_tiny_model(name, tmp_path)
    config = ServerConfig.model_validate({"model": {"model": files.name, "dtype": "float32", "quantization": quantization}})
    shape = read_shape(config, files)
    plan = make_plan(config, shape.facts, FACTS)
    for share in shares(shape, ParallelConfig(pipeline_parallel_size=num_stages), "none"):
        loaded = load_model(
            files,
            dtype="float32",
            device=torch.device("cpu"),
            quantization=quantization,
            load_format="auto",
            group=SINGLE,
            seed=0,
            stage=share.stage,
        )
        assert weight_bytes(share, plan, on_cpu=True) == loaded.weight_bytes
        assert kv_spec(share.config, share.stage) == loaded.model.kv_spec
        assert weight_shapes(share).layers == share.stage.layers(shape.config.num_layers)


def test_there_are_no_more_stages_than_layers(tmp_path: Path) -> None:
    shape = read_shape(ServerConfig.model_validate({"model": {"model": "m"}}), make_tiny_model("llama", tmp_path))
    check_stages(ParallelConfig(pipeline_parallel_size=3), shape.config, num_devices=None)
    with pytest.raises(ConfigError, match=r"this model has 3 layers, and each stage needs one; the nearest that works is 2$"):
        check_stages(ParallelConfig(pipeline_parallel_size=4), shape.config, num_devices=2)
