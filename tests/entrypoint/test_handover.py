"""What the exec'd server finds: its command line and environment as /proc shows them, and the options that it makes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_values
import pytest
from aws_values import REGION, AwsValues
from entrypoint_process import SOURCE, run_entrypoint

# Runs as the server starts, in its place: Python imports a module of this name first.
PROBE = """
import sys
if "headway.server.cli" in sys.orig_argv:
    import json, os, signal
    from headway.server.config.places import Places
    from headway.server.config.sources import resolve
    read = []
    original = Places.read
    def watched(self, references):
        read.extend(map(str, references))
        return original(self, references)
    Places.read = watched
    resolved = resolve(sys.orig_argv[sys.orig_argv.index("serve") + 1:], os.environ)
    command = open("/proc/self/cmdline", "rb").read().decode().split("\\0")[:-1]
    held_back = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    print(json.dumps({"command": command, "held_back": held_back, "environ": dict(os.environ), "config": resolved.config.model_dump(),
                      "warnings": resolved.warnings, "read": read}))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsValues]:
    with aws_values.serving() as served:
        yield served


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PROBE)
    return folder


def entrypoint(words: list[str], environ: dict[str, str], probe: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_entrypoint("serve", *words, environ={"SM_VLLM_MODEL": "demo"} | environ, path=probe)


def server(words: list[str], environ: dict[str, str], probe: Path) -> dict[str, Any]:
    done = entrypoint(words, environ, probe)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


WAYS = ["flag", "environment", "address", "parts", "YAML", "ssm", "ARN", "JSON ARN", "suffix", "S3"]


def given(way: str, aws: AwsValues, folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """(words, environment, the secrets in them) of an API key given in this way."""
    file = folder / "keys"
    file.write_text("s3cret-one\ns3cret-two\n")
    yaml = folder / "c.yaml"
    yaml.write_text("api-key: [s3cret-a, 's3cret b']\n")
    two = ["s3cret-one", "s3cret-two"]
    cloud = aws.environ | {"SAGEMAKER_REGION": REGION}
    return {
        "flag": (["--api-key", "s3cret-a"], {"VLLM_API_KEY": "s3cret-b"}, ["s3cret-a"]),
        "environment": ([], {"SM_API_KEY": "s3cret-a"}, ["s3cret-a"]),
        "address": ([], {"SM_API_KEY": f"file://{file}"}, two),
        "parts": ([], {"SM_VLLM_API_KEY_0": "s3cret", "SM_VLLM_API_KEY_1": "-a"}, ["s3cret-a"]),
        "YAML": (["--config", str(yaml)], {"SM_API_KEY": "s3cret-c"}, ["s3cret-a", "s3cret b"]),
        "ssm": ([], cloud | {"SM_API_KEY": f"ssm:{aws.parameter}"}, ["s3cret-ssm"]),
        "ARN": (["--api-key", aws.secret_arn], cloud, ["s3cret-plain"]),
        "JSON ARN": ([], cloud | {"VLLM_API_KEY": f"{aws.json_secret_arn}:key::"}, ["s3cret-json"]),
        "suffix": ([], cloud | {"SM_VLLM_API_KEY_SECRET_ARN": aws.secret_arn}, ["s3cret-plain"]),
        "S3": ([], cloud | {"SM_API_KEY": f"s3://{aws.bucket}/keys.txt"}, two),
    }[way]


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_reaches_the_server_and_nobody_else(way: str, aws: AwsValues, probe: Path, tmp_path: Path) -> None:
    words, environ, secrets = given(way, aws, tmp_path)
    seen = server(words, environ, probe)
    assert seen["config"]["security"]["api_key"] == secrets
    assert seen["command"][1:4] == ["-m", "headway.server.cli", "serve"]
    assert "s3cret" not in str(seen["command"])
    assert [name for name, text in seen["environ"].items() if "s3cret" in text or "API_KEY" in name] == ["VLLM_API_KEY"]
    assert seen["read"] == []
    assert all("holds a blank" in warning for warning in seen["warnings"])  # which is true of one of them
    if "AWS_ENDPOINT_URL" in environ:
        assert seen["environ"]["AWS_DEFAULT_REGION"] == REGION


@pytest.mark.parametrize("name", ["SM_VLLM_API_KEY_FILE", "SM_API_KEY_FILE", "VLLM_API_KEY_FILE"])
def test_a_file_of_keys_is_handed_over_as_its_path(name: str, probe: Path, tmp_path: Path) -> None:
    """The server follows it: what it holds now is nobody else's business."""
    file = tmp_path / "keys"
    file.write_text("s3cret-one\n")
    seen = server([], {name: str(file), "SM_API_KEY": "s3cret-a"}, probe)
    assert (seen["config"]["security"]["api_key_file"], seen["config"]["security"]["api_key"]) == (str(file), ["s3cret-a"])
    assert f"--api-key-file={file}" in seen["command"]
    assert "s3cret" not in str(seen["command"])
    assert "s3cret-one" not in str(seen)
    assert (seen["read"], seen["warnings"]) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_no_text_shows_the_secret(way: str, aws: AwsValues, tmp_path: Path) -> None:
    words, environ, _ = given(way, aws, tmp_path)
    shown = entrypoint([*words, "--show-config"], environ)
    assert shown.returncode == 0
    assert "api-key = ***" in shown.stderr
    assert "s3cret" not in shown.stdout + shown.stderr
    refused = entrypoint(words, environ | {"SM_VLLM_PORT": "x", "SM_HF_TOKEN": "***"})
    assert refused.returncode == 2
    assert refused.stderr.count("headway: error: ") == 2
    assert "s3cret" not in refused.stdout + refused.stderr


def test_signals_wait_for_the_server_to_take_them(probe: Path) -> None:
    """Process 1 would lose one that came over the exec."""
    assert server([], {}, probe)["held_back"] == [signal.SIGINT, signal.SIGTERM]


def test_each_source_is_shown_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ x }}\n")
    environ = {"SM_VLLM_CHAT_TEMPLATE_FILE": str(tmp_path / "t.jinja"), "SM_SEED_0": "1", "SM_SEED_1": "2", "HF_TOKEN": "t"}
    done = entrypoint(["--show-config"], environ)
    lines = done.stdout.splitlines() + done.stderr.splitlines()
    names = {line[line.rindex("environment") :].rstrip(")") for line in lines if "environment" in line}
    assert names == {f"environment {name}" for name in ("HF_TOKEN", "SM_SEED_0 to _1", "SM_VLLM_CHAT_TEMPLATE_FILE", "SM_VLLM_MODEL")}


def test_plain_values_are_flags_and_the_variables_of_others_stay(probe: Path) -> None:
    environ = {"SM_SEED_0": "1", "SM_VLLM_SEED": "2", "SM_NUM_GPUS": "1", "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD", "SM_OTHER": "x"}
    done = entrypoint([], environ, probe)
    seen = json.loads(done.stdout)
    assert "headway: warning: environment SM_VLLM_SEED is not used: SM_SEED_0 says otherwise and wins\n" in done.stderr
    assert {"--seed=1", "--batch-strategy=SINGLE_RECORD"} < set(seen["command"])
    assert {name for name in seen["environ"] if name.startswith(("SM_", "SAGEMAKER_"))} == {
        "SM_NUM_GPUS", "SAGEMAKER_BATCH_STRATEGY", "SM_OTHER",
    }  # fmt: skip
    assert seen["warnings"] == []


@pytest.mark.parametrize("length", [131_071 - len("--chat-template="), 131_072 - len("--chat-template="), 3_000_000])
def test_values_longer_than_execve_takes(length: int, probe: Path, tmp_path: Path) -> None:
    template = "{{ é }}\n".ljust(length - 1, "x")  # é has two bytes
    key = "k" * length
    (tmp_path / "t").write_text(template + "\n")
    (tmp_path / "k").write_text(key)
    seen = server([], {"SM_CHAT_TEMPLATE_FILE": str(tmp_path / "t"), "HF_TOKEN_FILE": str(tmp_path / "k")}, probe)
    assert seen["config"]["chat"]["chat_template"] == template
    assert seen["config"]["model"]["hf_token"] == key
    assert all(len(os.fsencode(word)) <= 131_071 for word in seen["command"])
    assert ("k" * 100) not in str(seen["command"])


def test_a_nul_in_the_config_file_arrives(probe: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('chat-template: "{{ x }}\\0\\n"\n')
    seen = server(["--config", str(tmp_path / "c.yaml")], {}, probe)
    assert seen["config"]["chat"]["chat_template"] == "{{ x }}\0\n"


def test_nothing_slow_is_imported_for_plain_options() -> None:
    """The entrypoint has 0.15 s: what takes long is imported by those who need it."""
    program = (
        "import os, sys\n"
        "os.execvpe = lambda *a: (print(sorted(sys.modules)), sys.stdout.flush(), os._exit(0))\n"
        "from headway.entrypoint.__main__ import main\n"
        "main(['serve'])\n"
    )
    environ = {"PYTHONPATH": SOURCE, "SM_VLLM_MODEL": "demo", "VLLM_API_KEY": "k", "SM_NUM_GPUS": "4", "SM_SEED_0": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120, check=True)
    slow = {"asyncio", "boto3", "difflib", "http", "logging", "multiprocessing", "ssl", "torch", "yaml"}
    assert "'headway.entrypoint.handover'" in done.stdout
    assert not {name for name in slow if f"'{name}'" in done.stdout}
