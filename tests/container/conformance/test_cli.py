"""`headway conformance` as a user runs it."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ports import claimed_port
from stub_container import FAULT, SCRIPT
from stub_contract import KEY, Stub
from stub_server import StubServer

from headway.container.conformance.cli import main
from headway.server.errors import ConfigError, HeadwayError

ENVIRON = {"HEADWAY_API_KEY": KEY}
NO_ADDRESS = "expected an address such as http://127.0.0.1:8080: SageMaker's routes stand at the root of a port"
COMMAND = f"{sys.executable} {SCRIPT} serve"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with StubServer(Stub()) as server:
        yield server.url


@pytest.fixture(scope="module")
def url_of_a_should() -> Iterator[str]:
    """Of a server that fails ping.head, a SHOULD."""
    with StubServer(Stub("ping.head")) as server:
        yield server.url


def problem_of(argv: Sequence[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        main(argv, {})
    [problem] = caught.value.problems
    return problem


def test_json_on_standard_output_is_nothing_but_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url, "--only", "ping.get,security.key", "--json", "-"], ENVIRON) == 0
    text = capsys.readouterr().out
    assert [check["result"] for check in json.loads(text)["checks"]] == ["pass", "pass"]
    assert KEY not in text


def test_reports_are_files(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [url, "--only", "ping.get", "--json", str(tmp_path / "a.json"), "--junit", str(tmp_path / "a.xml")]
    assert main(words, ENVIRON) == 0
    assert "1 checks: 1 pass" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["target"] == url
    assert ElementTree.parse(tmp_path / "a.xml").getroot()[0].get("tests") == "1"


def test_a_should_counts_only_when_strict(url_of_a_should: str) -> None:
    words = [url_of_a_should, "--only", "ping.head"]
    assert main(words, ENVIRON) == 0
    assert main([*words, "--strict"], ENVIRON) == 1


def test_a_must_counts() -> None:
    with StubServer(Stub("ping.post")) as server:
        assert main([server.url, "--only", "ping.post"], ENVIRON) == 1


def test_a_url_is_not_started(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url, "--only", "stop.exits", "--json", "-"], ENVIRON) == 0
    [check] = json.loads(capsys.readouterr().out)["checks"]
    assert check["result"] == "not applicable"
    assert "image" in check["reason"]


def test_the_key_is_the_containers_own_where_it_is_given_there(url: str) -> None:
    assert main([url, "--only", "invocations.answers"], {"SM_VLLM_API_KEY": KEY}) == 0
    assert main([url, "--only", "invocations.answers"], {}) == 1


def test_a_body_of_the_users_own(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "body.json").write_text('{"messages": [], "mine": 1}')
    assert main([url, "--only", "invocations.answers", "--body", str(tmp_path / "body.json")], ENVIRON) == 0


def test_a_command_in_the_place_of_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {**os.environ, **ENVIRON, FAULT: ""}
    words = ["--command", COMMAND, "--only", "start.serve,ping.get,start.no-word,image.exec-form", "--json", "-"]
    assert main(words, environ) == 0
    results = {check["id"]: check["result"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert results == {"ping.get": "pass", "start.serve": "pass", "start.no-word": "pass", "image.exec-form": "not applicable"}


def test_a_container_that_ends_is_told_with_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--command", COMMAND, "--only", "start.serve,ping.get", "-e", "SM_VLLM_MAX_NUM_SEQS=many", "--json", "-"]
    assert main(words, {**os.environ, FAULT: ""}) == 1
    ping, serve = json.loads(capsys.readouterr().out)["checks"]
    assert serve["reason"] == "the container ended with status 2: error: SM_VLLM_MAX_NUM_SEQS: expected a number"
    assert ping["result"] == "skipped"


def test_the_list_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "stop"], {}) == 0
    assert "stop.stream" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name what to check: one of an address (http://..), an image, or --command"),
        (["http://127.0.0.1:1", "--command", "x"], "name what to check: one of an address (http://..), an image, or --command"),
        (["http://x", "--only", "pong"], "--only pong: no check or topic is called so; did you mean ping?"),
        (["http://x", "--only", "ping", "--skip", "ping"], "--only and --skip leave no check"),
        (
            ["http://x/v1"],
            "'http://x/v1': expected an address such as http://127.0.0.1:8080: SageMaker's routes stand at the root of a port",
        ),
        (["http://x", "--network", "host"], "--network: the server at http://x runs already; this is for an image or --command"),
        (["http://x", "--bad-env", "A=B"], "--bad-env: the server at http://x runs already; this is for an image or --command"),
        (
            ["http://x", "--startup-timeout", "9"],
            "--startup-timeout: the server at http://x runs already; this is for an image or --command",
        ),
        (
            ["--command", "x", "--network", "host"],
            "--model-dir, --gpus and --network are for an image; tell a command its model with -e",
        ),
        (["http://x", "-e", "A=B"], "-e: the server at http://x runs already; this is for an image or --command"),
        (["--command", "/no/such/program"], "--command: there is no program /no/such/program"),
        (["--command", "serve"], "--command names no program"),
        (["--command", "a 'b"], "--command \"a 'b\" can't be read: No closing quotation"),
        (["--command", "true", "--gpus"], "--model-dir, --gpus and --network are for an image; tell a command its model with -e"),
        (["--command", "x", "--bad-env", "A"], "--bad-env must be NAME=VALUE, got 'A'"),
        (["http://x", "--body", "/nowhere.json"], "--body /nowhere.json can't be read: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], sentence: str) -> None:
    assert problem_of(words) == sentence


def test_an_image_without_the_package_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(HeadwayError, match=r"pip install 'headway\[toolkit\]'"):
        main(["headway"], {})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_image_without_an_engine() -> None:
    with pytest.raises(HeadwayError, match="no Docker engine answers"):
        main(["headway"], {"DOCKER_HOST": "unix:///no/such/socket"})
    gc.collect()  # the package leaves a socket to the collector, which must not complain in another test


def test_nobody_answers() -> None:
    with pytest.raises(HeadwayError, match=r"No server answers at http://127\."):
        main([f"http://127.0.0.1:{claimed_port()}"], {})
