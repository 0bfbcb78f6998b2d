"""JSON schemas, as the grammar library should read them."""

from __future__ import annotations

from typing import Any

_SAYS_WHETHER_OTHERS_MAY_BE = ("additionalProperties", "patternProperties", "unevaluatedProperties")
_VALUES = ("enum", "const", "default", "examples")  # below these stand values, not schemas
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # names of the user's -> schemas
# The library allows more than there is, and than validators take: 29 February in every year, the year 0, a second 60 at any time though
# only leap seconds have one; and a small z, which few readers know.
_LEAP = r"^(....-(0[^2]|1.)|....-02-[01]|....-02-2[0-8]|(..(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
_EXACT_DATE = [{"pattern": _LEAP}, {"pattern": "^(...[1-9]|..[1-9].|.[1-9]..|[1-9]...)-"}]
_EXACT_TIME = [{"pattern": r":[0-5][0-9](\.[0-9]+)?(Z|[+-].*)$"}]
_EXACT = {"date": _EXACT_DATE, "time": _EXACT_TIME, "date-time": [*_EXACT_DATE, *_EXACT_TIME]}


def prepared(schema: Any, *, closes_objects: bool) -> Any:
    """A copy in which dates and times are what validators take; with ``closes_objects`` objects that list properties, and do not say
    whether there may be others, have none."""
    if isinstance(schema, list):
        return [prepared(item, closes_objects=closes_objects) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _prepared_below(key, value, closes_objects) for key, value in schema.items()}
    exact = _EXACT.get(str(schema.get("format")))
    if exact is not None and isinstance(copy.setdefault("allOf", []), list):
        copy["allOf"] += exact
    if closes_objects and isinstance(schema.get("properties"), dict) and not any(key in schema for key in _SAYS_WHETHER_OTHERS_MAY_BE):
        copy["additionalProperties"] = False
    return copy


def _prepared_below(key: str, value: Any, closes_objects: bool) -> Any:
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, dict):
        return {name: prepared(schema, closes_objects=closes_objects) for name, schema in value.items()}
    return prepared(value, closes_objects=closes_objects)
