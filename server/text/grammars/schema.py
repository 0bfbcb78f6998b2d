"""JSON schemas, changed as options ask for."""

from __future__ import annotations

from typing import Any

_SAYS_WHETHER_OTHERS_MAY_BE = ("additionalProperties", "patternProperties", "unevaluatedProperties")
_VALUES = ("enum", "const", "default", "examples")  # below these stand values, not schemas
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # names of the user's -> schemas


def closed(schema: Any) -> Any:
    """A copy in which objects that list properties, and do not say whether there may be others, have none."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _closed_below(key, value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not any(key in schema for key in _SAYS_WHETHER_OTHERS_MAY_BE):
        copy["additionalProperties"] = False
    return copy


def _closed_below(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {name: closed(schema) for name, schema in value.items()}
    return closed(value)
