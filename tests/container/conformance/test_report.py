"""What is printed, JSON and JUnit, with answers of a server that means harm."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from headway.container.conformance.check import Check, Severity
from headway.container.conformance.junit import as_junit
from headway.container.conformance.outcome import Verdict, shown, shown_lines
from headway.container.conformance.registry import all_checks, chosen
from headway.container.conformance.report import as_json, markdown_list, print_results, summary
from headway.container.conformance.result import Result

ROOT = Path(__file__).resolve().parents[3]
EVIL = "\x1b[31m<a>&]]>\x00\ud800\uffff [bold]x[/bold] \r\n"


def a_check(severity: Severity) -> Check:
    return next(check for check in all_checks() if check.severity is severity)


def result(verdict: Verdict, severity: Severity = Severity.MUST, text: str = "") -> Result:
    return Result(a_check(severity), verdict, text, (text,) if text else (), 0.25)


RESULTS = [
    result(Verdict.PASSED),
    result(Verdict.FAILED, text="it breaks"),
    result(Verdict.FAILED, Severity.SHOULD, "it might be better"),
    result(Verdict.NOT_APPLICABLE, text="nothing of the kind"),
    result(Verdict.SKIPPED, text="not here"),
]


def test_ids_are_unique_and_each_check_has_a_clause() -> None:
    checks = all_checks()
    assert len({check.id for check in checks}) == len(checks) > 60
    assert all(check.clause.says.endswith(".") and check.title and "|" not in check.title + check.clause.says for check in checks)


def test_the_page_has_the_table_of_the_registry() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text()
    assert page.endswith(f"\n\n{markdown_list(all_checks())}"), "bring the table up to date: headway conformance --markdown"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\x1b[31mb\n", r"a\x1b[31mb\n"), ("\ud800", r"\ud800"), ("the key k-1", "the key ***"), ("é", "é"), ("x" * 400, "x" * 297 + "...")],
)
def test_evidence_is_one_printable_line_without_secrets(text: str, expected: str) -> None:
    assert shown(text, ["k-1"]) == expected


def test_evidence_is_bounded() -> None:
    assert shown_lines([str(number) for number in range(15)])[-2:] == ("11", "... and 3 more")


def test_the_table_tells_each_check_and_the_clause_of_those_that_failed() -> None:
    screen = io.StringIO()
    print_results("http://x", RESULTS, Console(file=screen, width=200))
    text = screen.getvalue()
    assert all(one.check.id in text and one.reason in text for one in RESULTS)
    assert text.count("the contract:") == 2
    assert text.rstrip().endswith("5 checks: 1 pass, 2 fail (1 MUST, 1 SHOULD), 1 not applicable, 1 skipped")


def test_what_a_server_writes_is_no_markup() -> None:
    screen = io.StringIO()
    print_results("[red]", [result(Verdict.FAILED, text="[bold]x[/bold]")], Console(file=screen, width=200))
    assert "[bold]x[/bold]" in screen.getvalue()
    assert "[red]" in screen.getvalue()


def test_json_has_every_field() -> None:
    document = json.loads(as_json("http://x", RESULTS))
    assert document["summary"] == {"pass": 1, "fail": 2, "not applicable": 1, "skipped": 1, "failed MUST": 1}
    failed = document["checks"][1]
    assert failed["result"] == "fail"
    assert failed["reason"] == "it breaks"
    assert failed["evidence"] == ["it breaks"]
    assert failed["clause"]["source"].startswith("https://docs.aws.amazon.com/sagemaker/")
    assert document["checks"][0]["reason"] is None


@pytest.mark.parametrize(("is_strict", "num_failures"), [(False, 1), (True, 2)])
def test_junit_counts_what_counts(is_strict: bool, num_failures: int) -> None:
    suite = ElementTree.fromstring(as_junit("http://x", RESULTS, is_strict=is_strict))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", str(num_failures), str(4 - num_failures))
    assert len(suite.findall("testcase/failure")) == num_failures
    assert len(suite.findall("testcase/skipped")) == 4 - num_failures
    assert suite.findall("testcase/failure")[0].get("message") == "it breaks"
    assert suite.findall("testcase")[0].get("time") == "0.250"


def test_junit_is_xml_whatever_a_server_wrote() -> None:
    suite = ElementTree.fromstring(as_junit(EVIL, [result(Verdict.FAILED, text=EVIL)], is_strict=False))[0]
    message = suite.find("testcase/failure").get("message")  # type: ignore[union-attr]
    assert message is not None
    assert "<a>&]]>" in message
    assert "\x1b" not in message


def test_summary_of_nothing_that_failed() -> None:
    assert summary(RESULTS[:1]) == "1 checks: 1 pass, 0 fail (0 MUST, 0 SHOULD), 0 not applicable, 0 skipped"


def test_checks_are_chosen_by_id_and_by_topic() -> None:
    assert {check.topic for check in chosen(["ping", "streams.end"], ["ping.load"])} == {"ping", "streams"}
    assert "ping.load" not in {check.id for check in chosen([], ["ping.load"])}
