"""A rank on another host finds the model there, or says which host lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import make_tiny_model

from headway.server.config.model import ModelConfig
from headway.server.engine.executor.over_ray.model_files import files_of_this_host
from headway.server.errors import ModelSourceError


def test_found_by_the_same_name(tmp_path: Path) -> None:
    make_tiny_model("llama", tmp_path / "model")
    found = files_of_this_host(ModelConfig(model=str(tmp_path / "model")), "10.0.0.2", tmp_path / "cache")
    assert found.directory == tmp_path / "model"


def test_a_host_that_lacks_it_is_named(tmp_path: Path) -> None:
    told = r"^Host 10\.0\.0\.2 of the Ray cluster lacks the model: .*/nothing does not exist.*; put it at the same path on every host"
    with pytest.raises(ModelSourceError, match=told):
        files_of_this_host(ModelConfig(model=str(tmp_path / "nothing")), "10.0.0.2", tmp_path)
