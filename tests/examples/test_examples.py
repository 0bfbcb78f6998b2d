"""The scripts of sagemaker_examples/ as they stand, against `headway local` in place of AWS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from aws_clients import client, close_connections
from local_sagemaker import LocalSageMaker
from tiny_adapters import make_adapter

pytestmark = pytest.mark.e2e
SCRIPTS = Path(__file__).resolve().parents[2] / "sagemaker_examples"
BUCKET = "examples"


@pytest.fixture(scope="module")
def local() -> Iterator[LocalSageMaker]:
    with LocalSageMaker("--process", "--autoscaling-interval", "1") as running:
        client("s3", **running.client_options("s3")).create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(autouse=True)
def no_connection_left() -> Iterator[None]:
    yield
    close_connections()


def run(local: LocalSageMaker, script: str, **variables: str) -> str:
    """What an example prints; fails with all of it, and the runtime's log, if the example does."""
    own = {"NAME": "example", "MODEL": "demo", "IMAGE": "headway", "ROLE": "arn:aws:iam::111122223333:role/local", "BUCKET": BUCKET}
    environ = {**os.environ, **local.environ, **own, **variables}
    done = subprocess.run([sys.executable, SCRIPTS / script], env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{local.log()}"
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(local: LocalSageMaker) -> Iterator[str]:
    """What deploy.py prints. Taken away by teardown.py."""
    yield run(local, "deploy.py")
    assert run(local, "teardown.py") == "example is gone\n"
    assert client("sagemaker", **local.client_options("sagemaker")).list_endpoints()["Endpoints"] == []


def test_deploy(deployed: str) -> None:
    first, second, *answer, usage = deployed.splitlines()
    assert first.startswith("example is being created")
    assert second == "example is in service"
    assert answer
    assert "'prompt_tokens': " in usage


def test_stream(local: LocalSageMaker, deployed: str) -> None:
    output = run(local, "stream.py")
    assert len(output.split()) > 20
    assert "'completion_tokens': " in output.splitlines()[-1]


def test_openai_client(local: LocalSageMaker, deployed: str) -> None:
    whole, *streamed = run(local, "openai_client.py").splitlines()
    assert whole
    assert "".join(streamed)


def test_sessions(local: LocalSageMaker, deployed: str) -> None:
    lines = run(local, "sessions.py").splitlines()
    assert lines[0].startswith("a session is open, Expires=20")
    assert lines[-1] == "closed"
    cached = [int(line.split("(")[-1].split()[0]) for line in lines[1:-1]]
    assert len(cached) == 3
    assert cached[0] < cached[1] < cached[2]


def test_autoscaling(local: LocalSageMaker, deployed: str) -> None:
    lines = run(local, "autoscaling.py").splitlines()
    assert lines[0].endswith("(1, 1)")
    assert lines[1].endswith("(2, 2)")
    assert "2" in lines[2]


@pytest.fixture(scope="module")
def alone(local: LocalSageMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """What the examples with an endpoint of their own print: two run at a time, for they wait most of it."""
    adapter = _adapter(local, tmp_path_factory.mktemp("adapter"))
    with ThreadPoolExecutor(2) as pool:
        scripts = ("adapters.py", "async_inference.py", "batch_transform.py")
        yield {script: pool.submit(run, local, script, ADAPTER=adapter) for script in scripts}


def test_async_inference(alone: dict[str, Future[str]]) -> None:
    place, *answer = alone["async_inference.py"].result().splitlines()
    assert place.startswith(f"the answer will be in s3://{BUCKET}/answers/")
    assert "".join(answer).strip()


def test_batch_transform(alone: dict[str, Future[str]]) -> None:
    lines = alone["batch_transform.py"].result().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["sea", "moon", "bread", "violin"]


def test_adapters(alone: dict[str, Future[str]]) -> None:
    base, adapter = alone["adapters.py"].result().splitlines()
    assert base.startswith("the base model: The sea is")
    assert adapter.startswith("the adapter:    The sea is")
    assert base.partition("is")[2] != adapter.partition("is")[2]


def _adapter(local: LocalSageMaker, directory: Path) -> str:
    """The S3 address of a random adapter for the demo model, packed as the platform wants it."""
    from demo_model import demo_files

    from headway.server.loading.model_config import read_config

    files = make_adapter(directory / "adapter", read_config(demo_files()), spread=0.05)
    archive = directory / "adapter.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for file in files.iterdir():
            packed.add(file, file.name)
    client("s3", **local.client_options("s3")).upload_file(str(archive), BUCKET, "adapter.tar.gz")
    return f"s3://{BUCKET}/adapter.tar.gz"


def test_every_example_is_run() -> None:
    text = Path(__file__).read_text() + (Path(__file__).parents[1] / "image" / "test_examples.py").read_text()
    assert all(script.name in text for script in SCRIPTS.glob("*.*") if script.suffix in (".py", ".sh"))


def test_every_example_has_its_section_and_its_variables_in_the_readme() -> None:
    readme = (SCRIPTS / "README.md").read_text()
    for script in SCRIPTS.glob("*.*"):
        if script.suffix not in (".py", ".sh"):
            continue
        command = "bash" if script.suffix == ".sh" else "python"
        assert f"\n## {script.name}\n" in readme
        assert f"```console\n$ {command} {script.name}\n" in readme
        row = next(line for line in readme.splitlines() if line.startswith(f"| [{script.name}]({script.name}) |"))
        taken = re.findall(
            r"environ(?:\.get\(|\[)[\"'](\w+)" if script.suffix == ".py" else r"^(\w+)=\$\{\1:-", script.read_text(), re.MULTILINE
        )
        assert sorted(re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])) == sorted(taken)
