"""What a check is: one function with its name, the clause of the contract that it holds a container to, and how much that binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.container.conformance.probe import Probe

_PAGES = "https://docs.aws.amazon.com/sagemaker/latest/dg/"


class Severity(StrEnum):
    """MUST: an endpoint breaks without it. SHOULD: some use of it does, or it is what a careful operator expects."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Needs(StrEnum):
    """A server that answers, or an image (or command) that the check may start and stop by itself."""

    URL = "url"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Clause:
    """``page`` of SageMaker's developer guide, or the name of an API model of botocore; ``says`` is what stands there, in our words."""

    page: str
    says: str

    @property
    def source(self) -> str:
        return self.page if " " in self.page else f"{_PAGES}{self.page}.html"


@dataclass(frozen=True, slots=True)
class Check:
    """``run`` returns when the container passes, and else raises one of the outcomes of outcome.py."""

    id: str
    title: str
    clause: Clause
    severity: Severity
    needs: Needs
    run: Callable[[Probe], None]

    @property
    def topic(self) -> str:
        return self.id.partition(".")[0]


def check(
    check_id: str, title: str, clause: Clause, severity: Severity = Severity.MUST, needs: Needs = Needs.URL
) -> Callable[[Callable[[Probe], None]], Check]:
    """Makes a Check of the function below it."""
    return lambda run: Check(check_id, title, clause, severity, needs, run)
