"""From a request's bytes to a validated model, or to one sentence that names the field at fault."""

from __future__ import annotations

import difflib
import re
import reprlib
from itertools import islice
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from headway.server.api.protocol.base import RequestModel
from headway.server.errors import RequestError
from headway.server.words import cut

_Model = TypeVar("_Model", bound=RequestModel)
_MAX_SHOWN = 80
# Five million empty lists in 16 MiB take 0.75 s to parse, in which nothing else of this process runs, and seconds more when the
# garbage collector walks them. No context holds a text with as many brackets as this.
MAX_CONTAINERS = 2**20


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises RequestError."""
    if not body.strip():
        raise RequestError("The body is empty; send a JSON object.")
    if len(body) > MAX_CONTAINERS and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise RequestError(f"The body has more than {MAX_CONTAINERS} brackets and braces; send less at a time.")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise RequestError(f"The body must be a JSON object, got {_KINDS.get(type(value), 'something else')}.")
    return value


def parse_request(model: type[_Model], fields: dict[str, Any]) -> _Model:
    """``fields`` as a request; null means that a field is left out. Raises RequestError."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        request = model.model_validate(given)
    except ValidationError as error:
        # An unknown field is more often the cause than what it makes missing ("promt"), so it goes first.
        _refuse_extras(model, given)
        raise _as_request_error(error) from error
    if request.model_extra:
        _refuse_extras(model, given)
        request.model_extra.clear()
    request.check()
    return request


def shortened(value: Any) -> str:
    """``value`` as it may stand in an error's text: cheap, however large it is."""
    return cut(_brief.repr(value), _MAX_SHOWN)


class _Brief(reprlib.Repr):
    """repr that looks at the first few items only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxlong = (
            4,
            _MAX_ITEMS_SHOWN,
            _MAX_ITEMS_SHOWN,
            _MAX_SHOWN,
            _MAX_SHOWN,
        )

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """The base class sorts all keys first."""
        if level <= 0:
            return "{...}" if x else "{}"
        pieces = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in islice(x.items(), self.maxdict)]
        return "{" + ", ".join(pieces) + (", ...}" if len(x) > self.maxdict else "}")


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
_COUNTED = re.compile(r" after validation, not .*$")
# Longer inputs are not shown at all.
_MAX_ITEMS_SHOWN = 20
_brief = _Brief()


def _refuse_extras(model: type[RequestModel], given: dict[str, Any]) -> None:
    known = model.model_fields
    for name, value in given.items():
        if name in known:
            continue
        if name in model.REFUSED:
            if _asks_for_nothing(value, model.REFUSED[name]):
                continue
            raise RequestError(f"{name} is not supported by this server; {model.ADVICE.get(name, 'leave it out')}.", name)
        close = difflib.get_close_matches(name[:100], [*known, *model.REFUSED], n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else "leave it out."
        raise RequestError(f"{shortened(name)} is not a field of this request; {hint}", name[:100])


def _asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    if any(isinstance(value, bool) == isinstance(known, bool) and value == known for known in neutral):
        return True
    # Zero is a number like others, and false says something where the neutral value is true.
    return value in ([], {}, "") or (value is False and True not in neutral)


def _as_request_error(error: ValidationError) -> RequestError:
    details = error.errors(include_url=False)
    detail = _deepest_of_union(details)
    location = [str(part) for part in detail["loc"] if not _is_union_tag(part)]
    param = ".".join(location)
    if detail["type"] == "missing":
        return RequestError(f"{param} is required.", param)
    if detail["type"] == "value_error":
        return RequestError(f"{detail['ctx']['error']}, got {_shown(detail['input'])}.", param)
    message = detail["msg"]
    for start in ("Input should ", "List should ", "Dictionary should ", "String should ", "Value should ", "Extra inputs are "):
        if message.startswith(start):
            message = ("is " if start.startswith("Extra") else "must ") + message[len(start) :]
    message = _COUNTED.sub("", message)
    return RequestError(f"{param} {message}, got {_shown(detail['input'])}.", param)


def _deepest_of_union(details: list[ErrorDetails]) -> ErrorDetails:
    """The first field's error; of a union's several, that of the branch which got furthest: it is the one that was meant."""
    first = [detail for detail in details if detail["loc"][:1] == details[0]["loc"][:1]]
    return max(first, key=lambda detail: (detail["type"] not in ("string_type", "list_type"), len(detail["loc"])))


def _is_union_tag(part: int | str) -> bool:
    """Pydantic puts the branch of a union into the location ("constrained-str"); that is no name of ours."""
    return isinstance(part, str) and (part in ("str", "[key]") or "[" in part or part.startswith("constrained-"))


def _shown(value: Any) -> str:
    if isinstance(value, list | dict) and len(value) > _MAX_ITEMS_SHOWN:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > _MAX_SHOWN:
        return f"a text of {len(value)} characters"
    return shortened(value)
