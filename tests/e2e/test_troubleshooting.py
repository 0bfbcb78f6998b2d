"""docs/troubleshooting.md comes true: each case is brought about in a real server, and says what the page says."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from certificates import DAY, Authority, TlsFiles
from dummy_model import write_dummy_model
from live_server import LiveServer
from ports import claimed_port

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"


def sections() -> dict[str, list[str]]:
    """Heading -> the messages below it."""
    _, *parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {part.partition("\n")[0]: re.findall(r"```text\n(.*?)\n```", part, re.DOTALL) for part in parts}


def pattern(message: str) -> str:
    """Matches a message of the page, with anything for what stands in angle brackets."""
    return ".+".join(map(re.escape, re.split(r"<[^<>]+>", message)))


def start(*words: str, **environ: str) -> str:
    """The last line of a start that ends by itself with status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "headway.server.cli", "serve", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


def start_model(directory: Path, *words: str) -> str:
    return start(str(directory), "--host", "127.0.0.1", "--port", str(claimed_port()), *words)


def taken_port(folder: Path) -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return start("demo", "--host", "127.0.0.1", "--port", str(listener.getsockname()[1]))


def start_tls(files: TlsFiles) -> str:
    return start("demo", "--ssl-keyfile", str(files.key), "--ssl-certfile", str(files.certificate))


def another_key(folder: Path) -> str:
    files = TlsFiles(folder, Authority().identity())
    certificate = files.certificate.read_bytes()
    files.put(Authority().identity())
    files.certificate.write_bytes(certificate)
    return start_tls(files)


def expired(folder: Path) -> str:
    return start_tls(TlsFiles(folder, Authority().identity(since=-9 * DAY, until=-DAY)))


def missing_file(folder: Path) -> str:
    files = TlsFiles(folder, Authority().identity())
    files.key.unlink()
    return start_tls(files)


def wrong_path(folder: Path) -> str:
    (folder / "other").mkdir()
    return start_model(folder / "modle")


def pickles(folder: Path) -> str:
    write_dummy_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return start_model(folder)


def unknown_architecture(folder: Path) -> str:
    return start_model(write_dummy_model(folder, architectures=["ZebraForCausalLM"]), "--load-format", "dummy")


def too_long_a_context(folder: Path) -> str:
    line = start_model(write_dummy_model(folder), "--load-format", "dummy", "--device", "cpu", "--kv-cache-memory-bytes", "16k")
    assert "set --max-model-len 96 or auto" in line
    return line


def broken_yaml(folder: Path) -> str:
    (folder / "c.yaml").write_text("model: demo\nport: [1\n")
    return start(f"--config={folder / 'c.yaml'}")


def misspelt_key(folder: Path) -> str:
    (folder / "c.yaml").write_text("model: demo\nprot: 1\n")
    return start("--config", str(folder / "c.yaml"))


def broken_json(folder: Path) -> str:
    return start("demo", "--override-generation-config", "{temperature: 0.2}")


def unsupported_option(folder: Path) -> str:
    return start("demo", "--nnodes", "2")


def useless_variable(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "headway.server.cli", "serve", "demo", "--show-config"],
        env={"PYTHONPATH": ":".join(sys.path), "VLLM_ATTENTION_BACKEND": "FLASHINFER"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr.splitlines()[-1]


def empty_key(folder: Path) -> str:
    return start("demo", "--api-key", "")


STARTS: dict[str, Callable[[Path], str]] = {
    "The port is taken": taken_port,
    "The key and the certificate do not match": another_key,
    "The certificate has expired": expired,
    "A file cannot be read": missing_file,
    "The model's path is wrong": wrong_path,
    "The weights are pickles": pickles,
    "The architecture is not supported": unknown_architecture,
    "The context does not fit into memory": too_long_a_context,
    "The YAML file is broken": broken_yaml,
    "A key of the YAML file is misspelt": misspelt_key,
    "A JSON option is broken": broken_json,
    "An option of vLLM is not supported": unsupported_option,
    "A variable of vLLM has no effect": useless_variable,
    "An API key is empty": empty_key,
}
ANSWERS = {
    "The API key is wrong": [{"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3cret-"}],
    "The key comes without Bearer": [{"Authorization": "s3cret"}, {"Authorization": "Basic s3cret"}],
    "No key comes": [{"X-API-Key": "s3cret"}, {}],
}
PREFLIGHT = "A browser's preflight is refused"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    model = write_dummy_model(tmp_path_factory.mktemp("model"))
    options = ("--api-key", "s3cret", "--served-model-name", "m", "--allowed-origins", "https://a.example")
    with LiveServer(str(model), "--load-format", "dummy", *options) as live:
        yield live.wait_ready()


@pytest.mark.parametrize("heading", STARTS)
def test_a_start_says_what_the_page_says(heading: str, tmp_path: Path) -> None:
    line = STARTS[heading](tmp_path)
    (message,) = sections()[heading]
    assert re.fullmatch(pattern(message), line), line


@pytest.mark.parametrize("heading", ANSWERS)
def test_an_answer_says_what_the_page_says(heading: str, server: LiveServer) -> None:
    (message,) = sections()[heading]
    for headers in ANSWERS[heading]:
        answer = httpx.get(f"{server.url}/v1/models", headers=headers)
        assert re.fullmatch(pattern(message), f"{answer.status_code} {answer.json()['error']['message']}")
    assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer s3cret"}).json()["data"][0]["id"] == "m"
    assert "s3cret" not in server.log()


def test_a_preflight_says_what_the_page_says(server: LiveServer) -> None:
    (message,) = sections()[PREFLIGHT]
    asked = {"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
    assert re.fullmatch(pattern(message), f"{answer.status_code} {answer.json()['error']['message']}")


def test_every_case_of_the_page_is_brought_about() -> None:
    assert sections().keys() == STARTS.keys() | ANSWERS.keys() | {PREFLIGHT}
