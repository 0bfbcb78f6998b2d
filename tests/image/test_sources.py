"""Models that lie as SageMaker's deployers pack them, served by the image: its Python and its libraries are not those of the tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import httpx
import pytest
from containers import Container
from demo_model import demo_gguf
from hub_server import running_hub
from s3_server import BUCKET, S3, running_s3
from tiny_models import make_tiny_model
from tiny_tokenizers import write_gpt2_tokenizer

pytestmark = pytest.mark.docker
BODY = {"messages": [{"role": "user", "content": "What is the capital of England?"}], "temperature": 0}
ANSWER = "The capital of England is London."
CODE = b"raise SystemExit('code that comes with a model is not run unasked')"


def packed_model() -> bytes:
    """model.tar.gz as toolkits make it: one directory, with code beside the model."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(demo_gguf(), "model/demo.gguf")
        script = tarfile.TarInfo("model/code/inference.py")
        script.size = len(CODE)
        tar.addfile(script, io.BytesIO(CODE))
    return buffer.getvalue()


def answer_of(container: Container) -> str:
    answer = httpx.post(f"{container.url}/invocations", json=BODY, timeout=60)
    assert answer.status_code == 200, answer.text
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


def inside(s3: S3) -> dict[str, str]:
    """The variables for a container, which has no files of this machine."""
    return {name: text for name, text in s3.environment.items() if not name.endswith("_FILE")}


@pytest.mark.parametrize("user", ["0:0", "12345:54321"])
def test_an_archive_in_the_model_directory(image: str, tmp_path: Path, user: str) -> None:
    (tmp_path / "model.tar.gz").write_bytes(packed_model())
    tmp_path.chmod(0o755)
    options = ("--volume", f"{tmp_path}:/opt/ml/model:ro", "--read-only", "--tmpfs", "/tmp", "--user", user)
    with Container(image, "serve", options=options) as container:
        container.wait_ready()
        assert answer_of(container) == ANSWER
        assert "unpacking /opt/ml/model/model.tar.gz" in container.logs()


def test_an_archive_that_leads_outside(image: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    with Container(image, "serve", options=("--volume", f"{tmp_path}:/opt/ml/model:ro")) as container:
        assert container.wait_exit() == 2
        assert "'../../outside'" in container.logs().splitlines()[-1]


@pytest.mark.parametrize("key", ["flat/", "packed/model.tar.gz"])
def test_a_model_in_s3(image: str, key: str) -> None:
    """A prefix and an archive, read with the credentials of the environment; the download shows in the log."""
    with running_s3() as s3:
        s3.put({"flat/demo.gguf": demo_gguf().read_bytes()} if key == "flat/" else {key: packed_model()})
        uri = f"s3://{BUCKET}/{key}"
        with Container(image, "serve", env={**inside(s3), "HF_MODEL_ID": uri}) as container:
            container.wait_ready()
            assert answer_of(container) == ANSWER
            assert f"downloading {uri}" in container.logs()
            assert "testing-secret" not in container.logs()


def test_a_gated_model_of_the_hub(image: str, tmp_path: Path) -> None:
    """Safetensors, with the token of the environment; the answers of a tiny model mean nothing, but that there is one."""
    write_gpt2_tokenizer(tmp_path)
    make_tiny_model("llama", tmp_path)
    with running_hub() as hub:
        hub.repositories["org/tiny"] = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        hub.gated.add("org/tiny")
        env = {"HF_MODEL_ID": "org/tiny", "HF_ENDPOINT": hub.url, "HF_TOKEN": '"good"', "HF_MODEL_REVISION": "main"}
        with Container(image, "serve", env=env) as container:
            container.wait_ready()
            answer = httpx.post(f"{container.url}/invocations", json={"prompt": "abc", "max_tokens": 4}, timeout=60)
            assert answer.json()["usage"]["completion_tokens"] > 0
        with Container(image, "serve", env={**env, "HF_TOKEN": "bad"}) as container:
            assert container.wait_exit() == 2
            assert "org/tiny" in container.logs().splitlines()[-1]


def test_no_such_object_in_s3(image: str) -> None:
    with running_s3() as s3, Container(image, "serve", env={**inside(s3), "SM_VLLM_MODEL": f"s3://{BUCKET}/nothing/"}) as container:
        assert container.wait_exit() == 2
        assert f"s3://{BUCKET}/nothing/" in container.logs().splitlines()[-1]
