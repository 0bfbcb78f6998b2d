"""Makes the checks, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from headway.container.conformance.check import Check, Needs
from headway.container.conformance.outcome import CheckEnded, NotApplicable, Verdict, shown, shown_lines
from headway.container.conformance.probe import Probe
from headway.container.conformance.result import Result
from headway.container.conformance.starts import Starts
from headway.container.conformance.subject import Subject, Wishes
from headway.server.errors import HeadwayError


def check_url(checks: Iterable[Check], url: str, wishes: Wishes, on_check: Callable[[Check], None]) -> list[Result]:
    """Raises HeadwayError where nobody answers at all."""
    with Subject(url, wishes) as subject:
        try:
            subject.ask("GET", "/ping", b"", {})
        except CheckEnded as ended:
            raise HeadwayError(f"No server answers at {url}: {ended}.") from ended
        return [_run(check, Probe(subject, None), on_check) for check in checks]


def check_image(checks: Sequence[Check], starts: Starts, wishes: Wishes, on_check: Callable[[Check], None]) -> list[Result]:
    """Those that need a server alone ask the first copy. Returned in the order of ``checks``."""
    of_url = [check for check in checks if check.needs is Needs.URL]
    results = _check_first_copy(of_url, starts, wishes, on_check) if of_url else []
    results += [_run(check, Probe(None, starts), on_check) for check in checks if check.needs is Needs.IMAGE]
    return sorted(results, key=lambda result: checks.index(result.check))


def _check_first_copy(checks: list[Check], starts: Starts, wishes: Wishes, on_check: Callable[[Check], None]) -> list[Result]:
    url = starts.url
    if url is None:
        return [_run(check, Probe(None, starts), on_check) for check in checks]
    with Subject(url, wishes) as subject:
        return [_run(check, Probe(subject, starts), on_check) for check in checks]


def _run(check: Check, probe: Probe, on_check: Callable[[Check], None]) -> Result:
    on_check(check)
    secrets = probe.secrets
    started = time.monotonic()
    verdict, reason = Verdict.PASSED, ""
    try:
        if check.needs is Needs.IMAGE and not probe.has_starts:
            raise NotApplicable("needs an image, which can be started and stopped; a URL was given")
        check.run(probe)
    except CheckEnded as ended:
        verdict, reason = ended.verdict, str(ended)
    except HeadwayError as error:  # a copy that can't be started in this way
        verdict, reason = Verdict.FAILED, str(error)
    return Result(check, verdict, shown(reason, secrets), shown_lines(probe.evidence, secrets), time.monotonic() - started)
