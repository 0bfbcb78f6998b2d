"""Results for people (a table) and for programs (JSON)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from headway import __version__
from headway.container.conformance.check import Check
from headway.container.conformance.outcome import Verdict
from headway.container.conformance.result import Result

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.NOT_APPLICABLE: "dim", Verdict.SKIPPED: "yellow"}


def print_results(target: str, results: Sequence[Result], console: Console) -> None:
    """A line a check, then what is known of each that failed, then the sums. Text, never markup: a server wrote some of it."""
    table = Table("result", "", Column("check", no_wrap=True), "what it is about", title=Text(f"SageMaker's hosting contract: {target}"))
    for result in results:
        about = result.check.title + (f"\n{result.reason}" if result.reason else "")
        table.add_row(Text(result.verdict, _STYLES[result.verdict]), result.check.severity, result.check.id, Text(about))
    console.print(table)
    for result in results:
        if result.is_failure:
            _print_failure(result, console)
    console.print(Text(summary(results), "bold"))


def summary(results: Sequence[Result]) -> str:
    """`40 checks: 37 pass, 1 fail (0 MUST, 1 SHOULD), 2 not applicable, 0 skipped`"""
    count = Counter(result.verdict for result in results)
    num_fatal = sum(result.is_fatal for result in results)
    failed = f"{count[Verdict.FAILED]} fail ({num_fatal} MUST, {count[Verdict.FAILED] - num_fatal} SHOULD)"
    return (
        f"{len(results)} checks: {count[Verdict.PASSED]} pass, {failed}, "
        f"{count[Verdict.NOT_APPLICABLE]} not applicable, {count[Verdict.SKIPPED]} skipped"
    )


def as_json(target: str, results: Sequence[Result]) -> str:
    checks = [
        {
            "id": result.check.id,
            "title": result.check.title,
            "severity": result.check.severity,
            "needs": result.check.needs,
            "clause": {"source": result.check.clause.source, "says": result.check.clause.says},
            "result": result.verdict,
            "reason": result.reason or None,
            "evidence": result.evidence,
            "seconds": round(result.duration_s, 3),
        }
        for result in results
    ]
    return json.dumps({"headway": __version__, "target": target, "summary": _counts(results), "checks": checks}, indent=2) + "\n"


def print_list(checks: Sequence[Check], console: Console) -> None:
    table = Table(Column("check", no_wrap=True), "", "needs", "what it is about")
    for check in checks:
        table.add_row(check.id, check.severity, check.needs, Text(check.title))
    console.print(table)


def markdown_list(checks: Sequence[Check]) -> str:
    """The table of docs/conformance.md."""
    lines = ["| check | | needs | what it holds a container to | the contract |", "|---|---|---|---|---|"]
    for check in checks:
        clause = check.clause
        source = clause.source if " " in clause.source else f"[{clause.page}]({clause.source})"
        lines.append(f"| `{check.id}` | {check.severity} | {check.needs} | {check.title} | {clause.says} ({source}) |")
    return "\n".join(lines) + "\n"


def _counts(results: Sequence[Result]) -> dict[str, int]:
    counts = {str(verdict): sum(result.verdict is verdict for result in results) for verdict in Verdict}
    return {**counts, "failed MUST": sum(result.is_fatal for result in results)}


def _print_failure(result: Result, console: Console) -> None:
    console.print(Text(f"{result.check.id}: {result.reason}", "bold red"))
    console.print(Text(f"  the contract: {result.check.clause.says} ({result.check.clause.source})"))
    for line in result.evidence:
        console.print(Text(f"  {line}", "dim"))
