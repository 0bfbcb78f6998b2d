"""`headway check` as it is run: its output, its exit status, and what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checked_models import write_whole_model
from demo_model import demo_gguf
from entrypoint_process import SOURCE, run_entrypoint

from headway.container.check.cli import main
from headway.server.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole_model(tmp_path_factory.mktemp("checked"))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    status = main(argv, {})
    return status, capsys.readouterr().out


def report(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "--json", *argv)[1])
    return found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-dp", "2"), ["engines      2, each with 1 GPU; what follows is of each"]),
        (("-tp", "2"), ["ranks        2, each with a GPU; the bytes that follow are of each"]),
        (
            ("-dp", "2", "-tp", "2"),
            [
                "engines      2, each with 2 GPUs; what follows is of each",
                "ranks        2, each with a GPU; the bytes that follow are of each",
            ],
        ),
        (
            ("-dp", "2", "-tp", "2", "--device", "cpu"),
            [
                "engines      2, each with its share of that memory; what follows is of each",
                "ranks        2, each with an equal part of that memory; the bytes that follow are of each",
            ],
        ),
    ],
)
def test_what_the_figures_are_of(capsys: pytest.CaptureFixture[str], model: Path, words: tuple[str, ...], told: list[str]) -> None:
    _, text = run(capsys, "--model-dir", str(model), "--instance", "ml.g6.12xlarge", "--", *words)
    assert [line.strip() for line in text.splitlines() if line.startswith(("  engines", "  ranks"))] == told


def test_the_json_has_the_documented_form(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    found = report(capsys, "--model-dir", str(model), "--instance", "ml.g6.xlarge", "-e", "SM_VLLM_API_KEY=geheim")
    names = "schema headway status platform findings not_checked options model fit fitting_instances"
    assert list(found) == names.split()
    assert (found["schema"], found["status"], found["platform"]) == (1, "warnings", "sagemaker")
    assert {finding["severity"] for finding in found["findings"]} == {"warning"}
    assert found["options"]["api-key"] == {"value": ["***"], "source": "environment SM_VLLM_API_KEY", "is_default": False}
    assert found["options"]["model"] == {"value": str(model), "source": f"directory {model}", "is_default": False}
    assert found["options"]["max-num-seqs"]["is_default"]
    assert found["model"] | {"weight_file_bytes": 0} == {
        "name": str(model),
        "place": "this machine",
        "path": str(model),
        "format": "safetensors",
        "num_files": 6,
        "weight_file_bytes": 0,
        "use": "generate",
        "architecture": "llama",
        "dtype": "float32",
        "max_model_len": 512,
    }
    assert found["fit"]["instance"] == "ml.g6.xlarge"
    assert found["fit"]["fits"]
    assert list(found["fit"]["num_requests"]) == ["512"]
    assert "ml.g6.xlarge" in found["fitting_instances"]


def test_secrets_are_in_no_output(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    secrets = ("-e", "SM_VLLM_API_KEY=geheim", "-e", "HF_TOKEN=geheim")
    for form in ((), ("--json",)):
        assert "geheim" not in run(capsys, *form, *secrets, "--instance", "ml.g6.xlarge", "--model-dir", str(model))[1]


def test_the_text_names_options_with_their_source_the_fit_and_every_fault(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    argv = ("-e", "SM_VLLM_MAX_NUM_SEQS=5", "-e", "SM_VLLM_PORT=many", "--instance", "ml.g6.xlarge", "--", str(model), "--uds", "/s")
    status, text = run(capsys, *argv)
    assert status == 2
    assert "  max-num-seqs            5   (environment SM_VLLM_MAX_NUM_SEQS)" in text
    assert "fit on ml.g6.xlarge (1 x L4, 22.5 GiB)" in text
    assert "at a time: 5 of 512 tokens" in text
    assert "\n  error: environment SM_VLLM_PORT: " in text
    assert "\n  error: --uds can't be used on SageMaker" in text
    assert text.endswith("\n2 errors, 0 warnings\n")


@pytest.mark.parametrize(("asked", "dtype"), [("auto", "bfloat16"), ("float32", "float32"), ("fp8", "float8_e4m3fn"), ("int8", "int8")])
def test_what_keys_and_values_are_kept_in(capsys: pytest.CaptureFixture[str], asked: str, dtype: str) -> None:
    """It need not be what activations are in: beside the weights of a quantised GGUF it is not."""
    argv = ("--instance", "ml.m6i.xlarge", "--", str(demo_gguf()), "--kv-cache-dtype", asked)
    fit = report(capsys, *argv)["fit"]
    assert (fit["dtype"], fit["kv_cache_dtype"]) == ("float32", dtype)
    assert f"tokens in {dtype}\n" in run(capsys, *argv)[1]


def test_the_exit_status(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    fine, warned = ("--", str(model)), ("--", str(model), "--uds", "/s")
    assert run(capsys, *fine)[0] == run(capsys, "--strict", *fine)[0] == 0
    assert (run(capsys, *warned)[0], run(capsys, "--strict", *warned)[0]) == (0, 1)
    assert run(capsys, "--platform", "docker", "--strict", *warned)[0] == 0
    assert run(capsys, "--platform", "sagemaker", *warned)[0] == 2
    assert run(capsys, "--model-dir", str(tmp_path))[0] == 2
    assert run(capsys, "--", "bash")[0] == 2


def test_an_instance_that_is_too_small_or_has_no_gpu_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    large = write_whole_model(tmp_path / "m", hidden_size=16384, intermediate_size=53248, num_hidden_layers=500)
    found = report(capsys, "--instance", "ml.g6.xlarge", "--", str(large))
    assert [finding["area"] for finding in found["findings"]] == ["fit"]
    assert found["findings"][0]["message"].startswith("on ml.g6.xlarge: the model needs ")
    assert not found["fit"]["fits"]
    assert found["fitting_instances"] == []
    (none,) = report(capsys, "--", str(large))["findings"]
    assert none == {"severity": "warning", "area": "fit", "message": none["message"]}
    assert none["message"].startswith("no instance type of SageMaker that is known holds this model")
    found = report(capsys, "--instance", "ml.m5.large", "--", str(large), "--device", "cuda")
    assert found["fit"] is None
    assert found["findings"][0]["message"] == "on ml.m5.large: --device cuda: ml.m5.large has no GPU; use one that has, or --device cpu"


def test_a_model_that_is_not_taken_is_looked_at_all_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m")
    (model / "model-00002-of-00002.safetensors").unlink()
    (model / "tokenizer.json").unlink()
    found = report(capsys, "--model-dir", str(model))
    incomplete, no_tokenizer = found["findings"]
    assert "1 weight file missing" in incomplete["message"]
    assert "has no tokenizer" in no_tokenizer["message"]
    assert found["model"]["architecture"] == "llama"


def test_a_models_texts_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write_whole_model(tmp_path / "m", architectures=["\x1b[2J\nerror: hacked"])
    text = run(capsys, "--", str(model))[1]
    assert "\x1b" not in text
    assert "\nerror: hacked" not in text


def test_unknown_instances_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        main(["--instance", "ml.g6.xlrge"], {})
    with pytest.raises(ConfigError, match="no option of `headway check`"):
        main(["--instanze", "x"], {})


def test_nothing_heavy_is_imported(model: Path) -> None:
    code = (
        "import sys; from headway.server.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'triton', 'boto3', 'huggingface_hub.hf_api', 'uvicorn'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else status)"
    )
    command = [sys.executable, "-c", code, "check", "--instance", "ml.g6.xlarge", "--", str(model)]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("0 errors, 0 warnings\n")


def test_the_images_entrypoint_hands_the_word_over(model: Path) -> None:
    """With the container's own environment."""
    environ = {"SM_VLLM_MODEL": str(model), "SM_VLLM_MAX_NUM_SEQS": "6", "SAGEMAKER_REGION": "r"}
    done = run_entrypoint("check", "--json", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["platform"] == "sagemaker"
    assert found["options"]["max-num-seqs"] == {"value": 6, "source": "environment SM_VLLM_MAX_NUM_SEQS", "is_default": False}
    assert "usage: headway check" in run_entrypoint("check", "--help", environ={}).stdout


def test_a_signal_ends_it_though_it_waits(tmp_path: Path) -> None:
    """Behind the entrypoint, which holds signals back over its exec, and with a Hub that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path), "SM_VLLM_MODEL": "org/slow"}
        command = [sys.executable, "-m", "headway.entrypoint", "check"]
        environ |= {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE}
        with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 130
            connection.close()
