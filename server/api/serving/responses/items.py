"""Input as it came to items as they are kept and listed: each with an id, contents as lists of parts, references resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headway.server.api.protocol.parse import shortened
from headway.server.api.serving.responses.ids import ResponseIds
from headway.server.errors import RequestError

Item = dict[str, Any]

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_INPUT_ROLES = ("user", "system", "developer")
_STATUSES = ("in_progress", "completed", "incomplete")
_TEXT_PARTS = ("input_text", "output_text", "text")


def normalised(given: str | list[Item], ids: ResponseIds, resolve: Callable[[str, str], Item]) -> list[Item]:
    """``resolve`` finds an item by its id, and by where the reference to it stands. Raises RequestError that names the item at fault."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    items = []
    for at, item in enumerate(given):
        where = f"input.{at}"
        kind = _kind_of(item, where)
        if kind == "item_reference":
            items.append(resolve(_text(item, "id", where), f"{where}.id"))
            continue
        item_id = item.get("id")
        if item_id is not None and not isinstance(item_id, str):
            raise RequestError(f"{where}.id must be a text.", f"{where}.id")
        items.append({"id": item_id or ids.of_item(_PREFIXES[kind], f"in{at}"), **_CHECKED[kind](item, where)})
    return items


def _kind_of(item: Item, where: str) -> str:
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    if kind in _PREFIXES or kind == "item_reference":
        return str(kind)
    known = ", ".join((*_PREFIXES, "item_reference"))
    raise RequestError(f"{where} has the type {shortened(kind)}; this server takes items of the types {known}.", f"{where}.type")


def _message(item: Item, where: str) -> Item:
    role = item.get("role")
    if role != "assistant" and role not in _INPUT_ROLES:
        roles = ", ".join((*_INPUT_ROLES, "assistant"))
        raise RequestError(f"{where}.role must be one of {roles}, got {shortened(role)}.", f"{where}.role")
    parts = _parts(item.get("content"), f"{where}.content", is_output=role == "assistant")
    return {"type": "message", "role": role, "status": _status(item, where), "content": parts}


def _function_call(item: Item, where: str) -> Item:
    texts = {name: _text(item, name, where) for name in ("call_id", "name", "arguments")}
    return {"type": "function_call", **texts, "status": _status(item, where)}


def _function_call_output(item: Item, where: str) -> Item:
    output = item.get("output")
    if not isinstance(output, str):
        output = _parts(output, f"{where}.output", is_output=False)
    return {
        "type": "function_call_output",
        "call_id": _text(item, "call_id", where),
        "output": output,
        "status": _status(item, where),
    }


def _reasoning(item: Item, where: str) -> Item:
    content = _typed_texts(item.get("content"), "reasoning_text", f"{where}.content")
    summary = _typed_texts(item.get("summary"), "summary_text", f"{where}.summary")
    if item.get("encrypted_content") is not None and not content:
        raise RequestError(
            f"{where}.encrypted_content can't be read by this server: send the item as it was given here, with its content.",
            f"{where}.encrypted_content",
        )
    return {"type": "reasoning", "summary": summary, "content": content, "status": _status(item, where)}


_CHECKED: Mapping[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}


def _parts(content: Any, where: str, *, is_output: bool) -> list[Item]:
    if isinstance(content, str):
        return [_text_part(content, is_output)]
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a text or a list of parts.", where)
    return [_part(part, f"{where}.{at}", is_output) for at, part in enumerate(content)]


def _part(part: Any, where: str, is_output: bool) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS:
        return _text_part(_text(part, "text", where), is_output)
    if kind == "refusal" and is_output:
        return {"type": "refusal", "refusal": _text(part, "refusal", where)}
    raise RequestError(
        f"{where} has the type {shortened(kind)}; this server takes text only, in parts of the types input_text and output_text.",
        f"{where}.type",
    )


def _text_part(text: str, is_output: bool) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []} if is_output else {"type": "input_text", "text": text}


def _typed_texts(given: Any, kind: str, where: str) -> list[Item]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise RequestError(f"{where} must be a list of parts of the type {kind}.", where)
    for at, part in enumerate(given):
        if not isinstance(part, dict) or part.get("type") != kind:
            raise RequestError(f"{where}.{at} must be a part of the type {kind}.", f"{where}.{at}.type")
    return [{"type": kind, "text": _text(part, "text", f"{where}.{at}")} for at, part in enumerate(given)]


def _text(holder: Item, name: str, where: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}.{name} must be a text, got {shortened(value)}.", f"{where}.{name}")
    return value


def _status(item: Item, where: str) -> str:
    status = item.get("status")
    if status is None:
        return "completed"
    if status not in _STATUSES:
        raise RequestError(f"{where}.status must be one of {', '.join(_STATUSES)}, got {shortened(status)}.", f"{where}.status")
    return str(status)
