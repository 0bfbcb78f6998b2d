"""What SageMaker refuses or does not reach: an error where it is meant, a warning where it may be, nothing where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from headway.container.check.platform_rules import Platform, platform_findings
from headway.container.settings import Settings

LONG = {"SM_VLLM_SERVED_MODEL_NAME": "x" * 1100}


def found(platform: Platform, environ: Mapping[str, str], *words: str) -> list[tuple[str, str]]:
    settings = Settings(environ, ("demo", *words), None, {})
    return [(finding.severity, finding.message) for finding in platform_findings(settings.examine()[0], settings, platform)]


@pytest.mark.parametrize(
    ("environ", "words", "expected"),
    [
        (LONG, (), "SM_VLLM_SERVED_MODEL_NAME has 1100 bytes, and SageMaker takes 1024"),
        ({f"SM_X{number}": "" for number in range(101)}, (), "Environment has 101 entries"),
        ({}, ("--uds", "/tmp/socket"), "--uds can't be used on SageMaker"),
        ({}, ("--ssl-certfile", "/c.pem", "--ssl-keyfile", "/k.pem"), "--ssl-certfile can't be used on SageMaker"),
    ],
)
def test_limits_are_errors_warnings_or_nothing(environ: Mapping[str, str], words: tuple[str, ...], expected: str) -> None:
    for platform, severity in (("sagemaker", "error"), ("any", "warning")):
        ((told, message),) = found(platform, environ, *words)
        assert told == severity
        assert expected in message
    assert found("docker", environ, *words) == []


@pytest.mark.parametrize(
    ("environ", "words", "expected"),
    [
        ({}, ("--port", "9000"), "--port is 9000 (--port), and SageMaker calls port 8080"),
        ({"SM_VLLM_HOST": "127.0.0.1"}, (), "--host 127.0.0.1 (environment SM_VLLM_HOST) can't be reached"),
    ],
)
def test_places_that_sagemaker_does_not_call(environ: Mapping[str, str], words: tuple[str, ...], expected: str) -> None:
    ((severity, message),) = found("sagemaker", environ, *words)
    assert severity == "error"
    assert message.startswith(expected)
    assert found("any", environ, *words) == []


def test_the_port_that_sagemaker_itself_asks_for_is_right() -> None:
    assert found("sagemaker", {"SAGEMAKER_BIND_TO_PORT": "9000"}) == []


def test_a_key_is_in_vain_there() -> None:
    for environ, advice in (({}, "on SageMaker, leave the key out"), ({"SAGEMAKER_REGION": "r"}, "if this is SageMaker (SAGEMAKER_REGION")):
        ((severity, message),) = found("any", environ, "--api-key", "k")
        assert severity == "warning"
        assert advice in message
    assert found("docker", {}, "--api-key", "k") == []


def test_what_the_entrypoint_would_refuse_is_an_error_anywhere() -> None:
    ((severity, message),) = found("docker", {"SAGEMAKER_REGION": "r"}, "--uds", "/tmp/socket")
    assert severity == "error"
    assert "SAGEMAKER_REGION says that this is it" in message


def test_a_secret_in_clear_is_told_without_it() -> None:
    ((severity, message),) = found("sagemaker", {"HF_TOKEN": "hf_verysecret"})
    assert severity == "warning"
    assert "SM_VLLM_HF_TOKEN_SECRET_ARN" in message
    assert "verysecret" not in message
    assert found("any", {"HF_TOKEN": "hf_verysecret"}) == []


def test_where_a_secret_stands_is_no_secret() -> None:
    settings = Settings({"SM_VLLM_HF_TOKEN": "file:///run/secrets/token", "SM_VLLM_HF_TOKEN_FILE": ""}, ("demo",), None, {})
    resolved = Settings({}, ("demo",), None, {}).resolve()
    assert platform_findings(resolved, settings, "sagemaker") == []
