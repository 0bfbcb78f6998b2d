"""Default sampling values: where they come from and how bad ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_model import demo_files

from headway.server.errors import ConfigError, ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.text.generation import GenerationDefaults, load_generation_defaults


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    (tmp_path / "generation_config.json").write_text(
        '{"temperature": 0.6, "top_k": 50, "top_p": 0.9, "do_sample": true, "eos_token_id": [1, 2], "max_new_tokens": 100}'
    )
    return ModelFiles("safetensors", tmp_path, None, "org/model")


def test_modes(files: ModelFiles, tmp_path: Path) -> None:
    whole = GenerationDefaults(temperature=0.6, top_k=50, top_p=0.9, max_tokens=100, eos_token_ids=(1, 2))
    assert load_generation_defaults(files, "auto", {}) == whole
    assert load_generation_defaults(files, "vllm", {}) == GenerationDefaults()
    assert load_generation_defaults(demo_files(), str(tmp_path), {}) == whole
    assert load_generation_defaults(demo_files(), "auto", {}) == GenerationDefaults()


def test_override(files: ModelFiles) -> None:
    found = load_generation_defaults(files, "auto", {"temperature": 0.1, "top_k": -1, "top_p": None, "repetition_penalty": 1.1})
    assert (found.temperature, found.top_k, found.top_p, found.repetition_penalty) == (0.1, 0, None, 1.1)


def test_bad_values_are_all_told(files: ModelFiles) -> None:
    with pytest.raises(ConfigError) as caught:
        load_generation_defaults(files, "auto", {"temprature": 1, "top_p": 1.5, "top_k": "many", "eos_token_id": "x"})
    assert caught.value.problems == [
        "--override-generation-config: unknown key 'temprature'; did you mean temperature",
        "--override-generation-config: top_p is 1.5; it must lie between 0 and 1, above 0",
        "--override-generation-config: top_k is 'many'; it must be a whole number",
        "--override-generation-config: eos_token_id is 'x'; it must be a token id or a list of them",
    ]


def test_missing_directory_and_damaged_file(files: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: there is no nowhere/generation_config\.json"):
        load_generation_defaults(files, "nowhere", {})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelSourceError, match=r"generation_config\.json cannot be read"):
        load_generation_defaults(files, "auto", {})
