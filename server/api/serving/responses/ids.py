"""Ids of a response and of its items. An item's tells whose it is, so that a reference to it finds it without an index."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

_RESPONSE = "resp_"
_RANDOM_BYTES = 24


@dataclass(frozen=True, slots=True)
class ResponseIds:
    """``stem`` is what all of one response's ids have in common; who does not know it can't guess it."""

    stem: str

    @classmethod
    def fresh(cls, asked: str | None) -> ResponseIds:
        """``asked``: a text of the client's choice that becomes a part."""
        random = secrets.token_hex(_RANDOM_BYTES)
        return cls(random if asked is None else f"{asked}_{random}")

    @property
    def response(self) -> str:
        return _RESPONSE + self.stem

    def of_item(self, kind: str, place: str) -> str:
        """``kind``: msg, rs, fc .. ``place``: unique within the response."""
        return f"{kind}_{self.stem}_{place}"


def response_of_item(item_id: str) -> str:
    """The id of the response that has such an item, if any has."""
    return _RESPONSE + item_id.partition("_")[2].rpartition("_")[0]
