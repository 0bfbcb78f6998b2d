"""Clients of boto3 that are closed behind each test: one that is left to the garbage collector warns in whichever test runs then."""

from __future__ import annotations

import weakref
from typing import Any

import boto3

_of_this_test: list[Any] = []  # held, or the collector might take one before it is closed
_of_earlier_ones: weakref.WeakSet[Any] = weakref.WeakSet()


def client(service: str, **options: Any) -> Any:
    """boto3's."""
    made = boto3.client(service, **options)  # type: ignore[call-overload]
    _of_this_test.append(made)
    return made


def close_connections() -> None:
    """Of all clients; those that live on open new ones."""
    _of_earlier_ones.update(_of_this_test)
    _of_this_test.clear()
    for made in list(_of_earlier_ones):
        made.close()
