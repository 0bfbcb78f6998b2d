"""What --speculative-config takes, and what it says of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headway.server.config.server import ServerConfig, problems
from headway.server.config.sources import resolve
from headway.server.config.speculative import SpeculativeConfig

NGRAM = {"method": "ngram", "num_speculative_tokens": 4}
MODEL = {"model": "m", "num_speculative_tokens": 4}


def found(asked: dict[str, Any], **topics: dict[str, Any]) -> list[str]:
    return problems(ServerConfig.model_validate({"speculative": {"speculative_config": asked}, **topics}))


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--speculative-config", json.dumps(NGRAM)], {}),
        (["-sc.method=ngram", "-sc.num_speculative_tokens", "4"], {}),
        (["-sc", json.dumps(NGRAM)], {}),
        ([], {"SM_VLLM_SPECULATIVE_CONFIG": json.dumps(NGRAM)}),
        (["--speculative-config", json.dumps({"model": "[ngram]", "num_speculative_tokens": 4})], {}),
    ],
)
def test_every_spelling_is_the_same(words: list[str], variables: dict[str, str]) -> None:
    speculative = resolve(["m", *words], variables).config.speculative
    assert speculative.num_drafts == 4
    assert speculative.settings is not None
    assert speculative.settings.lookup_lengths == (2, 5)


def test_nothing_is_drafted_unless_asked_for() -> None:
    assert (SpeculativeConfig().settings, SpeculativeConfig().num_drafts) == (None, 0)


@pytest.mark.parametrize(
    ("further", "lengths"),
    [
        ({"prompt_lookup_max": 4, "prompt_lookup_min": 3}, (3, 4)),
        ({"prompt_lookup_max": 1}, (1, 1)),
        ({"prompt_lookup_min": 8}, (8, 8)),
    ],
)
def test_what_is_looked_up(further: dict[str, int], lengths: tuple[int, int]) -> None:
    asked = SpeculativeConfig(speculative_config=NGRAM | further)
    assert found(NGRAM | further) == []
    assert asked.settings is not None
    assert asked.settings.lookup_lengths == lengths


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"num_speculative_tokens": 4}, "method is missing: set it to ngram, or to draft_model, eagle or eagle3 with a model"),
        ({"metod": "ngram", "num_speculative_tokens": 4}, "'metod' is none of its keys; did you mean method?"),
        ({"method": "ngram"}, "num_speculative_tokens is missing"),
        (NGRAM | {"num_speculative_tokens": 0}, "num_speculative_tokens: input should be greater than or equal to 1, got 0"),
        (NGRAM | {"num_speculative_tokens": "4"}, "num_speculative_tokens: input should be a valid integer, got '4'"),
        (NGRAM | {"prompt_lookup_mx": 4}, "'prompt_lookup_mx' is none of its keys; did you mean prompt_lookup_max?"),
        (NGRAM | {"xyz": 4}, "'xyz' is none of its keys; they are method, num_speculative_tokens, model, revision, prompt_lookup_max"),
        (NGRAM | {"disable_by_batch_size": 4}, "'disable_by_batch_size' has no meaning here: leave it out"),
        (NGRAM | {"prompt_lookup_max": 2, "prompt_lookup_min": 3}, "prompt_lookup_min 3 is above prompt_lookup_max 2: lower the first"),
        ({"method": "medusa", "model": "m", "num_speculative_tokens": 4}, "method 'medusa' is not supported by this version of Headway"),
        ({"method": "ngrm", "num_speculative_tokens": 4}, "method must be one of ngram, draft_model, eagle, eagle3, got 'ngrm'"),
        ({"method": "eagle3", "num_speculative_tokens": 4}, "model is missing: name the head's files, as --model would"),
        ({"method": "draft_model", "num_speculative_tokens": 4}, "model is missing: name the small model that drafts"),
        ({"method": "eagle", "modl": "x", "num_speculative_tokens": 4}, "'modl' is none of its keys; did you mean model?"),
        (MODEL | {"model": ""}, "model is missing: name the small model that drafts"),
        (MODEL | {"model": 4}, "model: input should be a valid string, got 4"),
        (MODEL | {"prompt_lookup_max": 4}, "prompt_lookup_max is for method ngram, and this one is draft_model: leave it out"),
        (NGRAM | {"model": "m"}, "model is for method draft_model or eagle or eagle3, and this one is ngram: leave it out"),
        (NGRAM | {"revision": "main"}, "revision is for method draft_model or eagle or eagle3, and this one is ngram: leave it out"),
        (MODEL | {"draft_tensor_parallel_size": 1}, "'draft_tensor_parallel_size' has no meaning here: leave it out"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    (problem,) = found(asked)
    assert problem.startswith(f"--speculative-config: {sentence}")


@pytest.mark.parametrize(
    ("topics", "flag"),
    [
        ({"scheduler": {"async_scheduling": True}}, "--async-scheduling"),
        ({"parallel": {"pipeline_parallel_size": 2}}, "--pipeline-parallel-size above 1"),
        ({"pooling": {"runner": "pooling"}}, "--runner pooling"),
    ],
)
def test_what_does_not_go_with_it(topics: dict[str, Any], flag: str) -> None:
    assert any(problem.startswith(f"{flag} does not go with --speculative-config: ") for problem in found(NGRAM, **topics))


@pytest.mark.parametrize("further", [{}, {"method": "draft_model"}, {"revision": "main"}])
def test_a_model_drafts_where_one_is_named(further: dict[str, str]) -> None:
    settings = SpeculativeConfig(speculative_config=MODEL | further).settings
    assert found(MODEL | further) == []
    assert settings is not None
    assert (settings.method, settings.model, settings.revision) == ("draft_model", "m", further.get("revision"))


@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_a_head_drafts_where_one_is_asked_for(method: str) -> None:
    asked = MODEL | {"method": method, "revision": "main"}
    config = SpeculativeConfig(speculative_config=asked)
    assert found(asked) == []
    assert config.asks_for_draft_model
    assert config.settings is not None
    assert (config.settings.method, config.settings.model, config.settings.revision) == (method, "m", "main")


@pytest.mark.parametrize(
    ("topics", "flag"),
    [
        ({"parallel": {"tensor_parallel_size": 2}}, "--tensor-parallel-size above 1"),
        ({"parallel": {"prefill_context_parallel_size": 2}}, "--prefill-context-parallel-size above 1"),
        ({"parallel": {"distributed_executor_backend": "ray"}}, "--distributed-executor-backend ray"),
        ({"kv_transfer": {"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "kv_both"}}}, "--kv-transfer-config"),
        ({"kv_transfer": {"kv_offloading_size": 1.0}}, "--kv-offloading-size"),
        ({"development": {"enable_sleep_mode": True}}, "--enable-sleep-mode"),
    ],
)
def test_what_does_not_go_with_a_draft_model(topics: dict[str, Any], flag: str) -> None:
    start = f"{flag} does not go with a draft model in --speculative-config: "
    for method in "draft_model", "eagle", "eagle3":
        assert any(problem.startswith(start) for problem in found(MODEL | {"method": method}, **topics))
    assert not any(problem.startswith(start) for problem in found(NGRAM, **topics))
