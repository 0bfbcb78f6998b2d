"""Copies as containers of a real engine. The image of the project is only the file system of a small program here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import docker, engine_problem
from control_plane import LiveControlPlane
from polling import wait_until

from headway.container.local.control.plane import ControlPlane
from headway.container.local.copies.container import ContainerStarter
from headway.container.local.targets import Target, Wish
from headway.server.errors import HeadwayError

pytestmark = pytest.mark.docker
BASE = "debian:bookworm-slim"
IMAGE = "headway-test-pretend"
# Answers each connection with 200, in Perl: what the smallest Debian has.
PROGRAM = r"""
use IO::Socket::INET; $| = 1;
print "begins with @ARGV\n";
if ($ENV{MODE} eq "dies") { print "the last word\n"; exit 3; }
$SIG{TERM} = $ENV{MODE} eq "stubborn" ? "IGNORE" : sub { exit 0 };
my $server = IO::Socket::INET->new(LocalPort => $ENV{SAGEMAKER_BIND_TO_PORT} // 8080, Listen => 16, ReuseAddr => 1) or die "port";
while (1) {
  my $client = $server->accept() or next;
  while (my $line = <$client>) { last if $line =~ /^\r?\n$/; }
  my $body = join(",", map { s{.*/}{}r } glob("/opt/ml/model/*")) . (open(my $new, ">", "/opt/ml/model/new") ? " writable" : " read-only");
  print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
  close $client;
}
"""


@pytest.fixture(scope="module")
def pretend_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if (problem := engine_problem()) is not None:
        if os.environ.get("HEADWAY_REQUIRE_DOCKER"):
            pytest.fail(f"HEADWAY_REQUIRE_DOCKER is set, but {problem}")
        pytest.skip(f"no Docker engine: {problem}")
    folder = tmp_path_factory.mktemp("image")
    (folder / "program.pl").write_text(PROGRAM)
    (folder / "Dockerfile").write_text(f'FROM {BASE}\nCOPY program.pl /\nENTRYPOINT ["perl", "/program.pl"]\n')
    docker("build", "--network", "none", "--tag", IMAGE, str(folder))
    yield IMAGE
    docker("rmi", "--force", IMAGE, check=False)


@pytest.fixture(scope="module")
def live(pretend_image: str) -> Iterator[LiveControlPlane]:
    with LiveControlPlane(ContainerStarter(os.environ, pretend_image)) as plane:
        yield plane


def test_a_container_lives_and_leaves_nothing(live: LiveControlPlane, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    async def make(plane: ControlPlane) -> None:
        plane.make_endpoint("contained", {"A": "1"}, ("serve", "--extra"), tmp_path)

    live.run(make)
    live.wait_in_service("contained")
    assert any("begins with serve --extra" in line for line in live.said)
    assert _get(live, "contained") == "config.json read-only"
    (mine,) = _running()
    facts = docker("inspect", "--format", "{{.HostConfig.ShmSize}} {{.Config.Env}}", mine).stdout
    assert facts.startswith("67108864 ")
    assert "A=1" in facts
    docker("kill", mine)
    wait_until(lambda: any("exited with status 137" in line for line in live.said))
    wait_until(lambda: (now := _running()) and now != [mine])
    live.wait_in_service("contained")
    live.client.delete_endpoint(EndpointName="contained")
    live.wait_deleted("contained")
    assert _all() == []


def test_a_container_that_dies_is_told_with_its_last_line(live: LiveControlPlane) -> None:
    live.make_endpoint("dead", {"MODE": "dies"})
    wait_until(lambda: live.client.describe_endpoint(EndpointName="dead")["EndpointStatus"] == "Failed")
    reason = live.client.describe_endpoint(EndpointName="dead")["FailureReason"]
    assert "It exited with status 3" in reason
    assert '"the last word"' in reason
    assert _all() == []


def test_an_image_that_the_engine_has_not_got(pretend_image: str) -> None:
    with LiveControlPlane(ContainerStarter(os.environ)) as plane:
        plane.make_endpoint("none", Image="headway-test-nowhere:1")
        wait_until(lambda: plane.client.describe_endpoint(EndpointName="none")["EndpointStatus"] == "Failed")
        assert (
            "The engine has not headway-test-nowhere:1: pull or build it"
            in plane.client.describe_endpoint(EndpointName="none")["FailureReason"]
        )


def test_what_a_runtime_that_was_killed_left_is_removed_by_the_next(pretend_image: str) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from headway.container.local.copies.base import CopySpec\n"
        "from headway.container.local.copies.container import ContainerStarter\n"
        "from headway.container.local.copies.log import CopyLog\n"
        "async def main():\n"
        "    await ContainerStarter(os.environ).start(CopySpec(sys.argv[1], {}), (), CopyLog(Path(sys.argv[2])))\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    log = f"/tmp/{IMAGE}-{os.getpid()}.log"
    subprocess.run([sys.executable, "-c", program, pretend_image, log], timeout=120, check=False)
    Path(log).unlink()
    assert len(_all()) == 1
    with LiveControlPlane(ContainerStarter(os.environ)) as plane:
        assert plane.said == ["removed 1 container that a runtime before this one had left"]
        assert _all() == []


def test_an_engine_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(HeadwayError, match="no Docker engine answers"):
        ContainerStarter({"DOCKER_HOST": "tcp://127.0.0.1:1"})


def _get(live: LiveControlPlane, endpoint: str) -> str:
    import urllib.request

    async def lease(plane: ControlPlane) -> Target:
        with plane.lease(endpoint, Wish()) as target:
            return target

    with urllib.request.urlopen(f"{live.run(lease).url}/ping", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def _running() -> list[str]:
    return docker("ps", "--quiet", "--filter", "label=headway.local").stdout.split()


def _all() -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", "label=headway.local").stdout.split()
