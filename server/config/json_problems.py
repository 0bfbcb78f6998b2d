"""What is wrong with an option that is JSON with keys of its own, in sentences."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def key_of(error: Any) -> str:
    """Where pydantic's ``error`` is: "a.b" for b within a."""
    return ".".join(str(part) for part in error["loc"])


def sentence_of(error: Any, model: type[BaseModel]) -> str:
    """About one of pydantic's errors of ``model``, which has the key that is unknown."""
    key = key_of(error)
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        from difflib import get_close_matches

        known = list(model.model_fields)
        near = get_close_matches(key.rpartition(".")[2], known, n=1)
        return f"{key!r} is none of its keys; " + (f"did you mean {near[0]}?" if near else f"they are {', '.join(known)}")
    return f"{key}: {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}"
