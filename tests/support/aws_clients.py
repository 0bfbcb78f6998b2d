"""Clients of boto3 that are closed behind each test: one that is left to the garbage collector warns in whichever test runs then."""

from __future__ import annotations

import weakref
from typing import Any

import boto3

_made: weakref.WeakSet[Any] = weakref.WeakSet()


def client(service: str, **options: Any) -> Any:
    """boto3's."""
    made = boto3.client(service, **options)  # type: ignore[call-overload]
    _made.add(made)
    return made


def close_connections() -> None:
    """Of all clients; those that live on open new ones."""
    for made in list(_made):
        made.close()
