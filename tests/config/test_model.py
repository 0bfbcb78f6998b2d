"""What the options of the model say together."""

from __future__ import annotations

from typing import Any

import pytest

from headway.server.config.model import ModelConfig, model_problems


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ({}, {}),
        ({"hf_overrides": {"a": 1}}, {"a": 1}),
        ({"rope_theta": 5.0}, {"rope_parameters": {"rope_theta": 5.0}}),
        (
            {"rope_scaling": {"factor": 4.0}, "rope_theta": 5.0, "hf_overrides": {"a": 1, "rope_parameters": {"factor": 2.0, "b": 3}}},
            {"a": 1, "rope_parameters": {"factor": 4.0, "b": 3, "rope_theta": 5.0}},
        ),
    ],
)
def test_what_is_laid_over_config_json(options: dict[str, Any], overrides: dict[str, Any]) -> None:
    assert ModelConfig(**options).config_overrides == overrides


def test_a_revision_alone_is_of_the_models_own_tokenizer() -> None:
    assert ModelConfig(model="org/m").tokenizer_source is None
    assert ModelConfig(model="org/m", tokenizer_revision="v2").tokenizer_source == "org/m"
    assert ModelConfig(model="org/m", tokenizer="org/t", tokenizer_revision="v2").tokenizer_source == "org/t"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"code_revision": "v1"}, "--code-revision names code that only runs with --trust-remote-code"),
        ({"trust_remote_code": True, "model_impl": "headway"}, "--trust-remote-code is for models that run through transformers"),
        ({"trust_remote_code": True, "model": "s3://bucket/m/"}, "--trust-remote-code runs code from a directory, an archive or the Hub"),
    ],
)
def test_whose_code_runs(options: dict[str, Any], why: str) -> None:
    (problem,) = model_problems(ModelConfig(**options))
    assert problem.startswith(why)
    assert model_problems(ModelConfig(model="s3://bucket/m.tar.gz", trust_remote_code=True)) == []
