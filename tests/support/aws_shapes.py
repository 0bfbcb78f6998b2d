"""What botocore's models say of a value and its own validator leaves to the service: enumerations, patterns, bounds."""

from __future__ import annotations

import re
from typing import Any

from botocore.model import Shape


def shape_problems(value: Any, shape: Shape, place: str = "") -> list[str]:
    """Patterns with \\p{..} or surrogates, which Python doesn't know, are passed over."""
    facts = shape.metadata
    match shape.type_name:
        case "structure":
            return [text for name, item in value.items() for text in shape_problems(item, shape.members[name], f"{place}.{name}")]
        case "map":
            items = [(item, part) for pair in value.items() for item, part in zip(pair, (shape.key, shape.value), strict=True)]
            return _out_of(len(value), facts, place) + [text for item, part in items for text in shape_problems(item, part, f"{place}{{}}")]
        case "list":
            return _out_of(len(value), facts, place) + [text for item in value for text in shape_problems(item, shape.member, f"{place}[]")]
        case "string":
            found = _out_of(len(value), facts, place)
            if "enum" in facts and value not in facts["enum"]:
                found.append(f"{place}: {value} is none of its words")
            pattern = facts.get("pattern", "")
            if pattern and "\\p{" not in pattern and "\\uD" not in pattern and not _matches(pattern, value):
                found.append(f"{place}: {value!r} does not match {pattern}")
            return found
        case "integer" | "float" | "double" | "long":
            return _out_of(value, facts, place)
    return []


def _matches(pattern: str, value: str) -> bool:
    # The model's own slip: (https|s3)://([^/])/?(.*) stands for bucket names of one letter, which nobody means.
    return bool(re.fullmatch(pattern.replace("([^/])/?", "([^/]+)/?"), value))


def _out_of(number: float, facts: dict[str, Any], place: str) -> list[str]:
    low, high = facts.get("min", number), facts.get("max", number)
    return [] if low <= number <= high else [f"{place}: {number} is not within {low} and {high}"]
