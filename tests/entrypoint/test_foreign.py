"""Variables of SageMaker and of other containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from entrypoint_process import NOWHERE

from headway.entrypoint.environment import read_options
from headway.entrypoint.foreign import IMAGE_DEFAULTS, model_directory, read_foreign
from headway.server.config.model import AskedQuantization
from headway.server.config.sources import Resolved, all_names
from headway.server.errors import ConfigError


def options(environ: dict[str, str]) -> Resolved:
    return read_options([], {"SM_VLLM_MODEL": "demo"} | environ, NOWHERE)


@pytest.mark.parametrize(
    ("name", "text", "option", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "9000", "port", 9000),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "6553500", "max_request_body_bytes", 6553500),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "4M", "max_request_body_bytes", 4 * 1024**2),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6", "max_request_body_bytes", 6 * 1024**2),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "0", "max_request_body_bytes", 1024**3),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "10", "log_level", "DEBUG"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", '"50"', "log_level", "CRITICAL"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "warn", "log_level", "WARNING"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "error", "log_level", "ERROR"),
        ("HF_MODEL_QUANTIZE", "int8", "quantization", "int8"),
        ("HUGGING_FACE_HUB_TOKEN", '"hf_t"', "hf_token", "hf_t"),
    ],
)
def test_variables_that_mean_an_option(name: str, text: str, option: str, value: Any) -> None:
    resolved = options({name: text})
    setting = all_names().setting(option)
    assert resolved.value(setting) == value
    assert str(resolved.source(setting)) == f"environment {name}"
    assert resolved.warnings == ()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "expected a whole number from 1024 to 65535, got 'x'"),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "expected a whole number (4k and 4K too) of at least 1024, got 'x'"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "expected a whole number of megabytes from 0 (no limit) to 1024, got 'x'"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "expected one of CRITICAL, ERROR, WARNING, INFO, DEBUG, got 'x'"),
        ("HF_MODEL_QUANTIZE", f"expected one of {', '.join(get_args(AskedQuantization))}, got 'x'"),
        ("SM_NUM_GPUS", "expected a number of GPUs, got 'x'"),
        ("HF_MODEL_TRUST_REMOTE_CODE", "expected true or false, got 'x'"),
        ("SAGEMAKER_MULTI_MODEL", "expected true or false, got 'x'"),
    ],
)
def test_nonsense_is_told(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options({name: "x", "SM_PORT": "y"})
    assert caught.value.problems == [
        "environment SM_PORT: expected a whole number from 1024 to 65535, got 'y'",
        f"environment {name}: {problem}",
    ]


@pytest.mark.parametrize("text", ["1025", "00000000001", "-1", "1.5", "²"])
def test_megabytes_outside_the_range(text: str) -> None:
    assert read_foreign({"SAGEMAKER_MAX_PAYLOAD_IN_MB": text}).problems


def test_they_count_above_the_defaults_only() -> None:
    environ = {"SAGEMAKER_BIND_TO_PORT": "9000", "SM_PORT": "8081", "SAGEMAKER_CONTAINER_LOG_LEVEL": "10", "VLLM_LOGGING_LEVEL": "error"}
    config = options(environ).config
    assert (config.network.port, config.logs.log_level) == (8081, "ERROR")
    both = {"SAGEMAKER_MAX_REQUEST_SIZE": "4096", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6"}
    assert options(both).config.overload.max_request_body_bytes == 4096


def test_the_image_has_defaults_of_its_own() -> None:
    config = options({}).config
    max_bytes = config.overload.max_request_body_bytes
    assert {"host": config.network.host, "port": config.network.port, "max_request_body_bytes": max_bytes} == IMAGE_DEFAULTS
    assert max_bytes > 25_000_000


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        ({"SM_NUM_GPUS": '"4"'},
         "environment SM_NUM_GPUS: has no effect; set SM_VLLM_TENSOR_PARALLEL_SIZE=4 to split the model over 4 GPUs"),
        ({"SM_NUM_GPUS": "1"}, None),
        ({"SM_NUM_GPUS": "0"}, None),
        ({"HF_MODEL_TRUST_REMOTE_CODE": "true"}, "environment HF_MODEL_TRUST_REMOTE_CODE: has no effect: code of a model repository is "
         "never run; a model that needs its own code is refused when it is loaded"),
        ({"HF_MODEL_TRUST_REMOTE_CODE": "false"}, None),
        ({"SAGEMAKER_MULTI_MODEL": "false"}, None),
        ({"SAGEMAKER_SAFE_PORT_RANGE": "1-2", "SAGEMAKER_PROGRAM": "x", "SM_MODEL_DIR": "x", "SAGEMAKER_BATCH": "true"}, None),
    ],
)  # fmt: skip
def test_what_no_option_answers(environ: dict[str, str], warning: str | None) -> None:
    assert options(environ).warnings == ((warning,) if warning else ())


def test_a_multi_model_endpoint_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"environment SAGEMAKER_MULTI_MODEL: .* inference components, .* \(/adapters\)$"):
        options({"SAGEMAKER_MULTI_MODEL": "true"})


def test_the_model_directory(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    environ = {"SAGEMAKER_MODEL_PATH": f" {tmp_path}"}
    assert model_directory(environ) == tmp_path
    assert model_directory({}) == Path("/opt/ml/model")
    assert read_options([], environ).config.model.model == str(tmp_path / "m.gguf")


def test_the_revision_belongs_to_the_hub_model(tmp_path: Path) -> None:
    environ = {"HF_MODEL_ID": "org/model", "HF_MODEL_REVISION": "v2"}
    model = read_options([], environ, NOWHERE).config.model
    assert (model.model, model.revision) == ("org/model", "v2")
    (tmp_path / "m.gguf").touch()
    assert read_options([], environ, tmp_path).config.model.revision is None
