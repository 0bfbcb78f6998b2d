"""A context that a file names is no reason to fill the memory: how long it can be at most is known before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import make_tiny_encoder
from tiny_models import make_tiny_model

from headway.server.config.plan import DeviceFacts, Plan, make_plan
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.sizing.context import plan_within_memory
from headway.server.sizing.model import read_shape
from headway.server.source.files import ModelFiles
from headway.server.words import GIB

HOST = DeviceFacts("cpu", "cpu", 8 * GIB, 6 * GIB, has_fast_bf16=False, has_fast_int8=True)
BLOCK_BYTES = 32 * 3 * 2 * 2 * 16 * 4  # tokens, layers, keys and values, heads, their size, bytes


def plan_of(files: ModelFiles, max_model_len: int | str | None, **topics: Any) -> Plan:
    model = {"model": files.name, "dtype": "float32", "max_model_len": max_model_len, "hf_overrides": {"max_position_embeddings": 2**25}}
    config = ServerConfig.model_validate({"model": model, **topics})
    shape = read_shape(config, files)
    return plan_within_memory(config, make_plan(config, shape.facts, HOST), shape, HOST)


def test_of_a_decoder_it_is_what_the_cache_could_hold(tmp_path: Path) -> None:
    files = make_tiny_model("llama", tmp_path)
    assert plan_of(files, "auto").max_model_len == 2 * GIB // BLOCK_BYTES * 32
    # Of two ranks each has half of the host's memory, and half of the heads of a block.
    assert plan_of(files, "auto", parallel={"tensor_parallel_size": 2}).max_model_len == plan_of(files, "auto").max_model_len
    assert plan_of(files, 4096).max_model_len == 4096
    with pytest.raises(ConfigError, match="fewer than --max-model-len 33554432: set --max-model-len auto"):
        plan_of(files, None)


def test_of_an_encoder_it_is_what_a_step_has_room_for(tmp_path: Path) -> None:
    files = make_tiny_encoder("modernbert", tmp_path)
    with pytest.raises(
        ConfigError, match=r"longest text of 33554432 tokens takes .* and cpu has 8.0 GiB: set --max-model-len to a shorter"
    ):
        plan_of(files, None)
    assert plan_of(files, 8192).max_model_len == 8192
