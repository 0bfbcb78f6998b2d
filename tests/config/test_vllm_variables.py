"""VLLM_* variables of existing deployments: taken where there is an option, else named once with what to do instead."""

from __future__ import annotations

import pytest

from headway.entrypoint.handover import environment_for_server
from headway.server.config.sources import resolve
from headway.server.errors import ConfigError

USELESS = {"VLLM_ATTENTION_BACKEND": "FLASHINFER", "VLLM_CACHE_ROOT": "/cache", "VLLM_SOMETHING_NEW": "1"}
SENTENCE = (
    "environment VLLM_ATTENTION_BACKEND (gone from vLLM too; set SM_VLLM_ATTENTION_BACKEND), VLLM_CACHE_ROOT (set HEADWAY_CACHE), "
    "VLLM_SOMETHING_NEW: without effect here"
)


def test_variables_without_effect_are_named_in_one_line() -> None:
    assert resolve(["demo"], USELESS).warnings == (SENTENCE,)


def test_they_end_the_start_where_that_is_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(["demo", "--fail-on-environ-validation"], USELESS)
    assert caught.value.problems == [f"{SENTENCE}; unset what is named, or leave out --fail-on-environ-validation"]
    assert resolve(["demo", "--fail-on-environ-validation"], {"VLLM_NO_USAGE_STATS": "1"}).warnings == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VLLM_PORT", "tcp://10.0.0.1:8000"),  # of a Kubernetes service called vllm
        ("VLLM_SERVICE_HOST", "10.0.0.1"),
        ("VLLM_SERVICE_PORT", "8000"),
        ("VLLM_SERVICE_PORT_HTTP", "8000"),
        ("VLLM_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("VLLM_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("VLLM_ROUTER_SERVICE_HOST", "10.0.0.1"),
        ("VLLM_ROUTER_PORT", "tcp://10.0.0.1:80"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_DO_NOT_TRACK", "1"),
        ("DO_NOT_TRACK", "1"),
        ("VLLM_USE_V1", "1"),
        ("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),
        ("VLLM", "x"),
        ("MY_VLLM_FLAG", "x"),
    ],
)
def test_what_changes_nothing_is_not_mentioned(name: str, text: str) -> None:
    resolved = resolve(["demo", "--fail-on-environ-validation"], {name: text})
    assert resolved.warnings == ()
    assert resolved.config.network.port == 8000


def test_a_port_for_internal_use_is_told_to_have_no_effect() -> None:
    assert resolve(["demo"], {"VLLM_PORT": "5000"}).warnings == ("environment VLLM_PORT: without effect here",)


def test_limits_and_checks_are_options() -> None:
    environ = {
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        "VLLM_SKIP_MODEL_NAME_VALIDATION": "true",
        "VLLM_MAX_N_SEQUENCES": "2",
        "VLLM_MAX_COMPLETION_PROMPTS": "3",
        "VLLM_MAX_STOP_STRINGS": "4",
        "VLLM_LOGGING_LEVEL_FILE": "/dev/null",
    }
    with pytest.raises(ConfigError, match="VLLM_LOGGING_LEVEL_FILE"):  # a variable of an option, in one of its forms
        resolve(["demo"], environ)
    del environ["VLLM_LOGGING_LEVEL_FILE"]
    resolved = resolve(["demo"], environ)
    assert resolved.warnings == ()
    assert resolved.config.model.allow_long_max_model_len
    assert resolved.config.model.skip_model_name_validation
    limits = resolved.config.limits
    assert (limits.max_n_sequences, limits.max_completion_prompts, limits.max_stop_strings) == (2, 3, 4)


def test_the_entrypoint_s_server_does_not_warn_again() -> None:
    environ = {**USELESS, "VLLM_NO_USAGE_STATS": "1", "PATH": "/bin"}
    child = environment_for_server(resolve(["demo"], environ), environ)
    assert child == {"VLLM_NO_USAGE_STATS": "1", "PATH": "/bin"}
    assert resolve(["demo"], child).warnings == ()
    # A user's script may read them.
    assert USELESS.items() <= environment_for_server(resolve(["demo", "--enable-custom-handlers"], environ), environ).items()
