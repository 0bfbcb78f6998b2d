"""List calls: filters, order and pages, the same for every kind of thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from headway.container.local.control.protocol import seconds_of
from headway.container.local.control.registry import Record, refused

_PAGE = 10
R = TypeVar("R", bound=Record)


def page(
    request: dict[str, Any],
    records: Iterable[R],
    member: str,
    summary: Callable[[R], dict[str, Any]],
    status: Callable[[R], str] | None = None,
) -> dict[str, Any]:
    """The answer of a List call: its ``member``, and NextToken where there is more. ``status`` for kinds that have one."""
    found = [record for record in records if _wanted(request, record, status)]
    is_descending = request.get("SortOrder", "Descending") == "Descending"
    if is_descending:
        found.reverse()  # records come as they were made, and sorting leaves those of one moment as they stand
    found.sort(key=_order(request.get("SortBy", "CreationTime"), status), reverse=is_descending)
    start = _offset(request.get("NextToken", "0"))
    end = start + request.get("MaxResults", _PAGE)
    answer: dict[str, Any] = {member: [summary(record) for record in found[start:end]]}
    return answer | ({"NextToken": str(end)} if end < len(found) else {})


def _wanted(request: dict[str, Any], record: R, status: Callable[[R], str] | None) -> bool:
    return (
        request.get("NameContains", "").lower() in record.name.lower()
        and ("StatusEquals" not in request or (status is not None and status(record) == request["StatusEquals"]))
        and _within(record.created, request.get("CreationTimeAfter"), request.get("CreationTimeBefore"))
        and _within(record.modified, request.get("LastModifiedTimeAfter"), request.get("LastModifiedTimeBefore"))
    )


def _within(moment: datetime, after: float | None, before: float | None) -> bool:
    """By what answers tell of the moment, which a request is likely to repeat."""
    told = seconds_of(moment)
    return (after is None or told > after) and (before is None or told < before)


def _order(sort_by: str, status: Callable[[R], str] | None) -> Callable[[R], Any]:
    if sort_by == "Status" and status is not None:
        return status
    return (lambda record: record.name) if sort_by == "Name" else (lambda record: record.created)


def _offset(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) <= 9):
        raise refused("NextToken is not one that a call before this one returned.")
    return int(token)
