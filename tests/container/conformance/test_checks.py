"""Each check passes on a server that keeps the contract, and fails on one that breaks it in that point alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from stub_contract import KEY, Stub
from stub_engine import StubEngine
from stub_server import StubServer

from headway.container.conformance.check import Check, Needs
from headway.container.conformance.outcome import Failed, Verdict
from headway.container.conformance.probe import Probe
from headway.container.conformance.registry import all_checks, chosen
from headway.container.conformance.result import Result
from headway.container.conformance.run import check_image, check_url
from headway.container.conformance.starts import Starts
from headway.container.conformance.subject import Subject, Wishes

WISHES = Wishes(KEY, adapter="/opt/ml/model/sql", timeout_s=20)
BAD = ("SM_VLLM_MAX_NUM_SEQS", "many")
OF_URL = [check for check in all_checks() if check.needs is Needs.URL]
OF_IMAGE = [check for check in all_checks() if check.needs is Needs.IMAGE]


def of_stub(checks: list[Check], fault: str) -> list[Result]:
    with StubServer(Stub(fault)) as server:
        return check_url(checks, server.url, WISHES, lambda _: None)


def of_copies(checks: list[Check], fault: str) -> list[Result]:
    # A copy that can't be reached is waited for in vain; one that starts needs a second or two.
    patience_s = 4 if fault.startswith("image.") else 60
    with Starts(StubEngine(fault), {}, WISHES, patience_s, BAD) as starts:
        return check_image(checks, starts, WISHES, lambda _: None)


@pytest.fixture
def full_queue() -> Iterator[str]:
    """The address of a listener that takes one connection and accepts none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_keeps_the_contract_passes_every_check() -> None:
    assert {result.check.id: (str(result.verdict), result.reason) for result in of_stub(OF_URL, "")} == {
        check.id: ("pass", "") for check in OF_URL
    }


def test_a_container_that_keeps_the_contract_passes_every_check() -> None:
    results = of_copies([*chosen(["ping"], ["ping.load"]), *OF_IMAGE], "")
    assert {result.check.id: result.reason for result in results if result.verdict is not Verdict.PASSED} == {}
    assert len(results) == 6 + len(OF_IMAGE)


@pytest.mark.parametrize("check", [check for check in OF_URL if check.id != "ping.connect"], ids=lambda check: check.id)
def test_each_check_of_a_server_can_fail(check: Check) -> None:
    [result] = of_stub([check], check.id)
    assert result.verdict is Verdict.FAILED, result
    assert result.reason


def test_the_check_of_connections_can_fail(full_queue: str) -> None:
    [check] = chosen(["ping.connect"], [])
    with Subject(full_queue, WISHES) as subject, pytest.raises(Failed, match=r"longer than 0.25 s in 3 rounds"):
        check.run(Probe(subject, None))


@pytest.mark.parametrize("check", OF_IMAGE, ids=lambda check: check.id)
def test_each_check_of_copies_can_fail(check: Check) -> None:
    [result] = of_copies([check], check.id)
    assert result.verdict is Verdict.FAILED, result
    assert result.reason
