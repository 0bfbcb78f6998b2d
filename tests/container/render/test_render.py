"""`headway render` as a command: what it refuses, all at once, and where its text goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rendering import BASIC, IMAGE, KEY, ROLE, deployment

from headway.container.render.cli import main
from headway.server.errors import ConfigError


def problems(*words: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        main(["boto3", *words], environ or {})
    return caught.value.problems


def test_text_goes_to_stdout_or_a_new_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boto3", *BASIC], {}) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "deploy.py"
    assert main(["boto3", *BASIC, "-o", str(path)], {}) == 0
    assert path.read_text() == printed
    assert problems(*BASIC, "-o", str(path)) == [f"--output {path} can't be written: File exists"]


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        *("--image", "headway:1", "--name", "a b", "--instance", "ml.g6.xlage", "--model-data", "s3://bucket/model"),
        *(
            "--adapter",
            "x",
            "--tag",
            "aws:x=1",
            "--role",
            "me",
            "-e",
            "SM_VLLM_MAX_MODEL_LEN=long",
            "--",
            "serve",
            "demo",
            "--port",
            "9000",
        ),
    )
    begins = [
        "--name must be",
        "--model-data must be s3://BUCKET/PREFIX/ with a slash",
        "--adapter must be NAME=s3://",
        "--tag: keys that begin with aws:",
        "ml.g6.xlage: unknown instance type; did you mean ml.g6.xlarge",
        "environment SM_VLLM_MAX_MODEL_LEN: expected",
        "--image headway:1: SageMaker pulls from ECR alone",
        "--role must be the ARN of a role",
    ]
    assert len(found) == len(begins)
    assert all(text.startswith(start) for text, start in zip(found, begins, strict=True)), found


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--", "serve", "demo", "--port", "9000"), "--port 9000 cannot be used on SageMaker, which calls port 8080"),
        (("--", "serve", "demo", "--uds", "/tmp/s"), "--uds cannot be used on SageMaker"),
        (("--", "serve", "demo", "--max-modl-len", "4"), "--max-modl-len"),
        (
            (
                "--",
                "bash",
            ),
            "bash: the words after the image's name",
        ),
        (("--volume-size", "50"), "--volume-size: ml.g6.xlarge has a disk of its own"),
        (("--prometheus", "http://prometheus:9090"), "--prometheus: boto3 has no use for it, only kubernetes"),
        (("--concurrency", "9"), "--concurrency: copies follow the load only with --max-copies above --min-copies"),
        (("--concurrency", "9", "--min-copies", "2", "--max-copies", "2"), "--concurrency: copies follow the load only with --max-copies"),
        (("--download-timeout", "600"), "--download-timeout: SageMaker downloads nothing without --model-data"),
        (("--account", "123456789013", "--role", ROLE), "--account: only a role that is made here names it"),
        (("--kms-key", KEY, "--no-iam"), "--kms-key: ml.g6.xlarge encrypts its disk by itself"),
        (("--cuda", "14.0"), "--cuda 14.0: no InferenceAmiVersion"),
        (("--region", "mars"), "--region mars: unknown region"),
        (("--min-copies", "3", "--max-copies", "2"), "--max-copies (2) must be at least --min-copies (3)"),
        (("--success-topic", "arn:aws:sns:eu-west-1:123456789012:t"), "--success-topic: asynchronous inference needs --async-output"),
        (("--async-output", "s3://answers/a", "--adapter", "a=s3://adapters/a.tar.gz"), "--async-output and --adapter"),
        (("--adapter", "a=s3://adapters/a.tar.gz", "--adapter", "a=s3://adapters/b.tar.gz"), "--adapter: a is named twice"),
        (("--name", "n" * 60, "--adapter", "abc=s3://adapters/a.tar.gz"), "--adapter abc: together with --name"),
        (("-e", f"SM_VLLM_CHAT_TEMPLATE={'x' * 1025}"), "environment SM_VLLM_CHAT_TEMPLATE has 1025 bytes, and SageMaker takes 1024"),
        (("-e", "SM_VLLM_DATA_PARALLEL_SIZE=2"), "--data-parallel-size 2 needs a GPU for each engine, and ml.g6.xlarge has 1"),
        (("-e", "SM_VLLM_TENSOR_PARALLEL_SIZE=4"), "--tensor-parallel-size 4 needs as many GPUs, and ml.g6.xlarge has 1"),
        (("-e", "NOTE=a\0b"), "environment NOTE: must be UTF-8 text"),
        (("-e", "NOTE=\udcff"), "environment NOTE: must be UTF-8 text"),
        (("-e", "SM_VLLM_API_KEY_SECRET_ARN=arn:aws:s3:::x"), "environment SM_VLLM_API_KEY_SECRET_ARN"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(*BASIC, *words))


def test_model_of_this_machine_must_be_in_s3(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    found = problems("--image", IMAGE, "--instance", "ml.g6.xlarge", "-e", "HF_HUB_OFFLINE=1", "--model-dir", str(tmp_path))
    assert found == [
        f"--model-dir {tmp_path} is on this machine: upload it to S3 and name the prefix with --model-data, which SageMaker puts into "
        "/opt/ml/model"
    ]


def test_model_data_is_the_model() -> None:
    made = deployment("--image", IMAGE, "--instance", "ml.g6.xlarge", "--model-data", "s3://models/chat/", "-e", "HF_MODEL_ID=a/b")
    assert made.config.model.model == "/opt/ml/model"
    assert made.environ == {"HF_MODEL_ID": "a/b"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("-e", "SM_VLLM_API_KEY=hunter2"), "SM_VLLM_API_KEY"),
        (("-e", "HF_TOKEN=hunter2"), "HF_TOKEN"),
        (("-e", "SM_VLLM_API_KEY=ssm:/key,hunter2"), "SM_VLLM_API_KEY"),
        (("-e", "SM_VLLM_API_KEY_0=hun", "-e", "SM_VLLM_API_KEY_1=ter2"), "SM_VLLM_API_KEY"),
        (("-e", "SM_API_KEY=ssm:/key", "-e", "SM_VLLM_API_KEY=hunter2"), "SM_VLLM_API_KEY"),
        (("--", "serve", "demo", "--api-key", "hunter2"), "SM_VLLM_API_KEY"),
    ],
)
def test_secret_in_plain_text_is_refused_and_not_shown(words: tuple[str, ...], name: str) -> None:
    [problem] = problems(*BASIC, *words)
    assert f"write {name}_SECRET_ARN=arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME or {name}=ssm:/NAME" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASSWORD", "GITHUB_TOKEN"])
def test_secret_of_somebody_else_is_refused_too(name: str) -> None:
    [problem] = problems(*BASIC, "-e", f"{name}=hunter2")
    assert problem.startswith(f"environment {name} looks like a secret")
    assert "hunter2" not in problem


def test_where_a_secret_stands_is_rendered_and_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boto3", *BASIC, "-e", "HF_TOKEN=ssm:/hub/token", "-e", "SM_VLLM_API_KEY_FILE=/run/secrets/key"], {}) == 0
    shown = capsys.readouterr()
    assert '"HF_TOKEN": "ssm:/hub/token"' in shown.out
    assert "an API key is set: SageMaker takes the Authorization header off" in shown.err


def test_words_win_over_variables() -> None:
    made = deployment(*BASIC, "-e", "SM_MAX_MODEL_LEN=1000", "-e", "SM_VLLM_MAX_NUM_SEQS=7", "--", "serve", "--max-model-len", "4k")
    assert made.environ == {"SM_VLLM_MODEL": "demo", "SM_VLLM_MAX_NUM_SEQS": "7", "SM_VLLM_MAX_MODEL_LEN": "4000"}
    assert made.words == ()
