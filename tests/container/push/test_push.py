"""`headway push` with a real engine and a real registry; ECR is moto's, whose repositories are said to be at that registry."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
import sys
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from containers import docker, engine_problem
from ecr_server import EcrServer
from oci_registry import PASSWORD, manifest_digest, registry_program, running_registry

from headway.container.push.engine import clear_text_problem
from headway.server.cli import main

VERSION, REVISION = "org.opencontainers.image.version=1.2.3", "org.opencontainers.image.revision=0123456789abcdef"
SCANNED = {"imageScanStatus": {"status": "COMPLETE"}, "imageScanFindings": {"findingSeverityCounts": {"HIGH": 1, "LOW": 2}}}


@dataclass
class Bench:
    """An engine, a registry, and ECR before it. ``image`` makes a tiny one of the engine; all are removed at the end."""

    ecr: EcrServer
    registry: str
    images: list[str]

    def image(self, *changes: str, content: bytes = b"hello") -> str:
        import docker as sdk

        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo("app/greeting")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        name = f"headway-push-test:{uuid.uuid4().hex[:12]}"
        with contextlib.closing(sdk.from_env()) as client:
            repository, _, tag = name.partition(":")
            labels = [f"LABEL {VERSION}", f"LABEL {REVISION}"]
            client.api.import_image_from_data(out.getvalue(), repository=repository, tag=tag, changes=[*labels, *changes])
        self.images.append(name)
        return name

    def push(self, image: str, *words: str) -> int:
        return main(["push", "--image", image, "--repository", "team/headway", *words])

    def scans_to(self, answer: dict[str, object]) -> None:
        self.ecr.answers["DescribeImageScanFindings"] = [(200, answer)]

    def holds(self, tag: str, image: str) -> str:
        """Makes ECR say that ``tag`` is ``image``, which the registry has: moto knows nothing of what was pushed there."""
        digest = manifest_digest(self.registry, "team/headway", tag)
        config = docker("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()
        held = {"imageId": {"imageDigest": digest, "imageTag": tag}, "imageManifest": json.dumps({"config": {"digest": config}})}
        self.ecr.answers["BatchGetImage"] = [(200, {"images": [held]})]
        return digest


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    problem = engine_problem()
    program = None if problem else registry_program(tmp_path_factory.mktemp("program"))
    if problem or program is None:
        problem = problem or "there is no docker-registry, nor apt-get that could fetch it"
        if os.environ.get("HEADWAY_REQUIRE_DOCKER"):
            pytest.fail(f"HEADWAY_REQUIRE_DOCKER is set, but {problem}")
        pytest.skip(problem)
    with running_registry(program, tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def bench(ecr: EcrServer, registry: str) -> Iterator[Bench]:
    ecr.registry = registry
    bench = Bench(ecr, registry, [])
    bench.scans_to(SCANNED)
    yield bench
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", check=False).stdout.split()
    for name in (*bench.images, *(name for name in listed if name.startswith(registry))):
        docker("image", "rm", name, check=False)


@pytest.mark.docker
def test_an_image_is_pushed_and_its_address_alone_is_printed(
    bench: Bench, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("docker", "urllib3", "headway"):
        caplog.set_level(logging.DEBUG, name)
    assert bench.push(bench.image(), "--repository-tag", "team=models") == 0
    out, err = capsys.readouterr()
    digest = manifest_digest(bench.registry, "team/headway", "1.2.3-0123456789ab")
    assert out == f"{bench.registry}/team/headway@{digest}\n"
    assert "1 HIGH, 2 LOW" in err
    assert "no bill of materials" in err
    made = dict(bench.ecr.requests)["CreateRepository"]
    assert (made["imageTagMutability"], made["imageScanningConfiguration"]) == ("IMMUTABLE", {"scanOnPush": True})
    assert PASSWORD not in out + err + caplog.text


@pytest.mark.docker
def test_json_tells_all_of_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    image = bench.image("ENV GPG_KEY=abc")
    assert bench.push(image, "--json", "--tag", "a", "--tag", "b", "--fail-on", "critical") == 0
    told = json.loads(capsys.readouterr().out)
    digest = manifest_digest(bench.registry, "team/headway", "b")
    assert told["uri"] == f"{bench.registry}/team/headway@{digest}"
    assert (told["tags"], told["pushed_tags"], told["repository_created"]) == (["a", "b"], ["a", "b"], True)
    assert told["findings"] == {"HIGH": 1, "LOW": 2}
    assert told["secrets"] == [{"place": "environment GPG_KEY", "what": "a secret, to judge by the name", "certain": False}]


@pytest.mark.docker
def test_what_is_there_already_is_not_pushed_again(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    image = bench.image()
    assert bench.push(image, "--tag", "same") == 0
    digest = bench.holds("same", image)
    capsys.readouterr()
    bench.ecr.requests.clear()
    assert bench.push(image, "--tag", "same") == 0
    assert capsys.readouterr().out == f"{bench.registry}/team/headway@{digest}\n"
    assert not {"CreateRepository", "GetAuthorizationToken"}.intersection(bench.ecr.asked)


@pytest.mark.docker
def test_a_tag_of_another_image_is_not_moved(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    first = bench.image()
    assert bench.push(first, "--tag", "taken") == 0
    digest = bench.holds("taken", first)
    assert bench.push(bench.image(content=b"another"), "--tag", "taken") == 1
    assert f"taken is another image ({digest}), and tags are not moved" in capsys.readouterr().err
    assert manifest_digest(bench.registry, "team/headway", "taken") == digest


@pytest.mark.docker
@pytest.mark.parametrize(
    ("changes", "content", "place"),
    [
        (["ENV HF_TOKEN=abc"], b"", "environment HF_TOKEN: a secret"),
        ([], b"-----BEGIN PRIVATE KEY-----", "a layer's file /app/greeting: a private key"),
    ],
)
def test_secrets_stop_a_push_before_anything_is_changed(
    bench: Bench, capsys: pytest.CaptureFixture[str], changes: list[str], content: bytes, place: str
) -> None:
    image = bench.image(*changes, content=content)
    assert bench.push(image) == 1
    err = capsys.readouterr().err
    assert place in err
    assert "is not pushed: it gives secrets away" in err
    assert bench.ecr.asked == []
    assert bench.push(image, "--allow-secrets", "--tag", f"allowed-{uuid.uuid4().hex}") == 0


@pytest.mark.docker
def test_findings_of_ecr_fail_it_if_asked(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    image = bench.image()
    assert bench.push(image, "--tag", "found", "--fail-on", "HIGH") == 1
    assert "1 findings of that severity or above" in capsys.readouterr().err
    bench.scans_to({"imageScanStatus": {"status": "IN_PROGRESS"}})
    assert bench.push(image, "--tag", "unknown", "--fail-on", "HIGH", "--scan-timeout", "0") == 1
    assert "it is pushed, but ECR's scan has not ended within 0 s" in capsys.readouterr().err


@pytest.mark.docker
def test_a_dry_run_changes_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.push(bench.image(), "--dry-run", "--json", "--tag", "dry") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dry_run"], told["uri"], told["pushed_tags"], told["repository_created"]) == (True, None, [], False)
    assert bench.ecr.asked == ["DescribeRepositories"]


@pytest.mark.docker
def test_a_registry_that_refuses_is_one_sentence(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.ecr.login = "AWS:wrong-password"
    assert bench.push(bench.image(), "--tag", "refused") == 1
    err = capsys.readouterr().err
    bench.ecr.login = f"AWS:{PASSWORD}"
    assert f"headway: error: the push of {bench.registry}/team/headway:refused was refused:" in err
    assert "wrong-password" not in err


@pytest.mark.docker
def test_an_image_that_is_not_there(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.push("headway-no-such:1") == 1
    assert "the engine has no image headway-no-such:1" in capsys.readouterr().err


@pytest.mark.usefixtures("ecr")
def test_an_engine_that_nobody_answers_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{closed.getsockname()[1]}")
        assert main(["push", "--no-build"]) == 1
    assert "no Docker engine answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--image", "a", "--variant", "cpu"), "--variant: nothing is built with --image"),
        (("--image", "a", "--checkout", "."), "--checkout: nothing is built with --image"),
        (("--no-build", "--checkout", "."), "--checkout: nothing is built with --no-build"),
    ],
)
@pytest.mark.usefixtures("ecr")
def test_how_to_build_is_refused_where_nothing_is_built(words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://192.0.2.1:2375", "http://engine.example:2375"])
def test_a_password_is_not_sent_to_an_engine_in_the_clear(url: str) -> None:
    assert "reached without TLS" in str(clear_text_problem(url))


@pytest.mark.parametrize(
    "url", ["http+docker://localhost", "http+docker://ssh", "https://192.0.2.1:2376", "http://127.0.0.1:2375", "http://[::1]:1"]
)
def test_engines_that_are_near_or_behind_tls_get_it(url: str) -> None:
    assert clear_text_problem(url) is None


@pytest.mark.usefixtures("ecr")
def test_without_the_toolkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    assert main(["push", "--no-build"]) == 1
    assert "pip install 'headway[toolkit]'" in capsys.readouterr().err


@pytest.mark.usefixtures("ecr")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tag", "a b"], "--tag 'a b'"),
        (["--repository", "Big"], "--repository 'Big'"),
        (["--repository-tag", "team"], "--repository-tag 'team': expected KEY=VALUE"),
    ],
)
def test_words_that_can_not_be(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_help_names_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    assert "--fail-on" in capsys.readouterr().out
