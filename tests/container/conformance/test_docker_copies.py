"""What becomes of containers: one that has ended at once, one that could not start, those of a run that was killed, and long logs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from stub_docker import IMAGE, StubDocker

from headway.container.conformance.engines import docker as module
from headway.container.conformance.engines.base import Start
from headway.container.conformance.engines.docker import DockerEngine
from headway.container.conformance.starts import Starts
from headway.container.conformance.subject import Wishes
from headway.container.docker_engine import owner
from headway.server.errors import HeadwayError

pytest.importorskip("docker")
DEAD = owner(os.getpid()).rpartition("/")[0] + f"/{2**22 + 1}@1.00"  # above the kernel's largest process id


@pytest.fixture
def stub() -> Iterator[StubDocker]:
    with StubDocker(log=b"begins\nthe last word\n") as stub:
        yield stub


def engine_of(stub: StubDocker) -> DockerEngine:
    return DockerEngine(IMAGE, "bridge", None, False, stub.environ)


def test_a_container_that_ended_at_once_is_told_by_its_status_and_removed(stub: StubDocker) -> None:
    with Starts(engine_of(stub), {}, Wishes(), 5, ("BAD", "1")) as starts:
        assert starts.boot.problem == "the container ended with status 3: the last word"
        assert (starts.refusal.exit_status, starts.refusal.last_line) == (3, "the last word")
    assert stub.labels == {}


def test_a_container_that_cannot_start_is_removed(stub: StubDocker) -> None:
    stub.refuses_start = True
    engine = engine_of(stub)
    with pytest.raises(HeadwayError, match=r"^stub can't be started: no room\.$"):
        engine.start(Start())
    engine.close()
    assert stub.labels == {}


def test_containers_of_a_run_that_was_killed_are_removed_by_the_next(stub: StubDocker) -> None:
    alive = {"headway.conformance": owner(os.getpid())}
    stub.labels |= {"dead": {"headway.conformance": DEAD}, "alive": alive, "other": {"headway.local": DEAD}}
    engine = engine_of(stub)
    assert set(stub.labels) == {"alive", "other"}
    copy = engine.start(Start())
    assert list(stub.labels.values()).count(alive) == 2
    copy.close()
    engine.close()


def test_of_a_long_log_the_end_is_kept(stub: StubDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LOG_BYTES", 9)
    engine = engine_of(stub)
    copy = engine.start(Start())
    assert copy.log() == "ast word\n"
    copy.close()
    engine.close()


def test_what_the_engine_refuses_is_one_sentence(stub: StubDocker) -> None:
    engine = engine_of(stub)
    copy = engine.start(Start())
    for ask in (copy.terminate, copy.command_lines):
        with pytest.raises(HeadwayError, match=r"^The Docker engine fails: .* is not possible\.$"):
            ask()
    copy.close()
    engine.close()
