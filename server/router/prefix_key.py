"""What requests that begin alike have in common: the key of the policy `prefix`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"
# Roles that stand before a conversation's first turn.
_PREAMBLE = ("system", "developer")


class _Body(msgspec.Struct):
    """What of a body counts here, of all APIs. Raw: the JSON as it came, whatever it is."""

    model: msgspec.Raw = msgspec.Raw()
    cache_salt: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()  # of Messages
    instructions: msgspec.Raw = msgspec.Raw()  # of Responses
    messages: list[msgspec.Raw] | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    inputs: msgspec.Raw = msgspec.Raw()  # of SageMaker's older containers


class _Message(msgspec.Struct):
    role: str = ""


_read_body = msgspec.json.Decoder(_Body).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def prefix_key(body: bytes, headers: Mapping[str, str], most_bytes: int) -> bytes | None:
    """The beginning of the prompt, behind what keeps prefix caches apart: model, adapter, salt. None where the body has no prompt.

    Of a conversation that is all up to its first user's turn and no more, so that every turn of it has the same key.
    """
    try:
        read = _read_body(body)
        prompt = _opening(read.messages) if read.messages else _beginning(read)
    except (msgspec.MsgspecError, RecursionError):
        return None  # the server will say what is wrong
    if not prompt:
        return None
    apart = [headers.get(_ADAPTER_HEADER, "").encode(), bytes(read.model), bytes(read.cache_salt)]
    beginning = b"\0".join((bytes(read.system), bytes(read.instructions), prompt))
    return b"\0".join((*apart, beginning[:most_bytes]))


def _beginning(body: _Body) -> bytes:
    text = next((bytes(field) for field in (body.prompt, body.input, body.inputs) if bytes(field)), b"")
    if body.input and text[:1] == b"[" and (items := _read_items(text)) and bytes(items[0])[:1] == b"{":
        return _opening(items)
    return text


def _opening(messages: list[msgspec.Raw]) -> bytes:
    parts = []
    for message in messages:
        parts.append(bytes(message))
        if _read_message(message).role not in _PREAMBLE:
            break
    return b"\0".join(parts)
