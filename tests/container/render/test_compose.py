from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_yaml import HOSTILE, IMAGE, as_options, refusal, render

from headway.container.render.yaml_text import document

MODEL = ("-e", "SM_VLLM_MODEL=demo")


@pytest.fixture
def compose(capsys: pytest.CaptureFixture[str]) -> Any:
    """Renders; checked by docker's own reader where there is one."""

    def rendered(*words: str) -> Any:
        text = render(capsys, "compose", "--image", IMAGE, *words)
        if _has_compose():
            done = subprocess.run(["docker", "compose", "-f", "-", "config", "-q"], input=text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        return yaml.safe_load(text)

    return rendered


def _has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def test_the_container_has_no_more_rights_than_it_needs(compose: Any) -> None:
    service = compose(*MODEL)["services"]["headway"]
    assert service["image"] == IMAGE
    assert service["command"] == ["serve"]
    assert service["environment"] == {"SM_VLLM_MODEL": "demo"}
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert (service["read_only"], service["tmpfs"]) == (True, ["/tmp"])
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["volumes"] == [{"type": "volume", "source": "headway-cache", "target": "/tmp/headway"}]
    assert "deploy" not in service
    assert "secrets" not in service


def test_it_is_given_time_to_start_and_to_end(compose: Any) -> None:
    service = compose(*MODEL, "--startup-timeout", "600", "--", "serve", "--shutdown-timeout", "100", "--port", "9000")["services"][
        "headway"
    ]
    assert service["healthcheck"]["test"] == ["CMD", "headway", "health"]
    assert service["healthcheck"]["start_period"] == "600s"
    assert service["stop_grace_period"] == "105s"
    assert service["command"] == ["serve", "--shutdown-timeout", "100", "--port", "9000"]
    assert service["ports"] == ["127.0.0.1:9000:9000"]


def test_gpus_of_the_instance_are_reserved(compose: Any) -> None:
    service = compose(*MODEL, "--instance", "ml.g6.12xlarge")["services"]["headway"]
    assert service["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": 4, "capabilities": ["gpu"]}]
    assert service["shm_size"] == "1gb"
    assert "deploy" not in compose(*MODEL, "--instance", "ml.c6i.4xlarge")["services"]["headway"]


def test_copies_take_ports_of_their_own(compose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    service = compose(*MODEL, "--min-copies", "3")["services"]["headway"]
    assert service["deploy"]["replicas"] == 3
    assert service["ports"] == ["127.0.0.1:8080-8082:8080"]
    assert "# Compose does not scale by load: 1 of the copies run" in render(
        capsys, "compose", "--image", IMAGE, *MODEL, "--max-copies", "2"
    )


def test_secrets_are_files_and_never_values(compose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    whole = compose(*MODEL, "-e", "SM_VLLM_API_KEY_FILE=/run/secrets/api_key", "-e", "SM_VLLM_SSL_KEYFILE=/run/secrets/tls.key",
                    "-e", "SM_VLLM_SSL_CERTFILE=/etc/tls.crt")  # fmt: skip
    service = whole["services"]["headway"]
    assert service["secrets"] == ["api_key", "tls.key"]
    assert whole["secrets"] == {"api_key": {"file": "./secrets/api_key"}, "tls.key": {"file": "./secrets/tls.key"}}
    assert service["environment"]["SM_VLLM_API_KEY_FILE"] == "/run/secrets/api_key"
    said = refusal(capsys, "compose", "--image", IMAGE, *MODEL, "-e", "SM_VLLM_API_KEY=hunter2-hunter2")
    assert "SM_VLLM_API_KEY" in said
    assert "hunter2" not in said


def test_the_model_is_mounted_or_fetched(compose: Any, tmp_path: Path) -> None:
    (tmp_path / "$odd").mkdir()
    mounted = compose("--model-dir", str(tmp_path / "$odd"), *MODEL)["services"]["headway"]
    assert mounted["volumes"][1] == {"type": "bind", "source": f"{tmp_path}/$$odd", "target": "/opt/ml/model", "read_only": True}
    fetched = compose("--model-data", "s3://bucket/model/")["services"]["headway"]
    assert fetched["environment"] == {"SM_VLLM_MODEL": "s3://bucket/model/"}
    named = compose("--model-data", "s3://bucket/model/", *MODEL)["services"]["headway"]
    assert named["environment"] == {"SM_VLLM_MODEL": "demo"}


def test_hostile_values_come_out_as_they_were(compose: Any) -> None:
    whole = compose(*MODEL, *as_options(HOSTILE), "--name", "A-Name", "--tag", "yes=on", "--", "--served-model-name", "$chat")
    service = whole["services"]["headway"]
    assert {name: text.replace("$$", "$") for name, text in service["environment"].items()} == {"SM_VLLM_MODEL": "demo", **HOSTILE}
    assert service["environment"]["A_VARIABLE"] == "$$HOME $${HOME} $$$$ $$(HOME) $$"
    assert service["command"] == ["--served-model-name", "$$chat"]
    assert (whole["name"], service["labels"]) == ("a-name", {"yes": "on"})


@pytest.mark.parametrize("text", ["0o17", "0x1F", "1_000", "y", "n", "off", "1e3", ".inf", "=", "<<", "12:30", "null", "2026-11-25"])
def test_texts_that_versions_of_yaml_read_differently_are_quoted(text: str) -> None:
    assert document({"name": text}) in (f'name: "{text}"\n', f"name: '{text}'\n")


def test_what_is_not_for_this_target_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "compose", "--image", IMAGE, *MODEL, "--adapter", "a=s3://bucket/a.tar.gz", "-e", "SM_VLLM_UDS=/tmp/x")
    assert "--adapter: only SageMaker fetches adapters" in said
    assert "--uds: nothing outside of the container" in said


def test_what_only_other_targets_have_a_use_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, "compose", "--image", IMAGE, *MODEL, "--volume-size", "100", "--no-iam", "--prometheus", "http://p")
    assert "--volume-size: compose has no use for it" in told
    assert "--no-iam: compose has no use for it" in told
    assert "--prometheus: compose has no use for it, only kubernetes" in told
