"""Results as a JUnit XML report, which CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from headway.container.conformance.outcome import Verdict
from headway.container.conformance.result import Result

# XML 1.0 has no way to write these.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(target: str, results: Sequence[Result], *, is_strict: bool) -> bytes:
    """A test case a check, a class a topic. A SHOULD that is not met is a failure only when strict, else it is told as skipped."""
    suite = ElementTree.Element("testsuite", name=_legal(f"headway conformance {target}"))
    counts = {"tests": len(results), "failures": 0, "errors": 0, "skipped": 0}
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"conformance.{result.check.topic}",
            name=_legal(f"{result.check.id}: {result.check.title}"),
            time=f"{result.duration_s:.3f}",
        )
        if result.verdict is not Verdict.PASSED:
            fails = result.is_failure and (is_strict or result.is_fatal)
            counts["failures" if fails else "skipped"] += 1
            word = "warning" if result.is_failure and not fails else str(result.verdict)
            message = result.reason if fails else f"{word}: {result.reason}"
            ElementTree.SubElement(case, "failure" if fails else "skipped", message=_legal(message))
        clause = result.check.clause
        lines = (f"{result.check.severity}: {clause.says} ({clause.source})", *result.evidence)
        ElementTree.SubElement(case, "system-out").text = _legal("\n".join(lines))
    for name, count in counts.items():
        suite.set(name, str(count))
    suite.set("time", f"{sum(result.duration_s for result in results):.3f}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
