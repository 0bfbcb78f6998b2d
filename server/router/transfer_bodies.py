"""Bodies of the two requests that one becomes when a prefill server computes its prompt and a decode server answers it.

::

    client   {"messages": .., "max_tokens": 90, "stream": true}
    prefill  {"messages": .., "max_tokens": 1, "stream": false, "kv_transfer_params": {"do_remote_decode": true, "announce": true, ..}}
             answers {.., "kv_transfer_params": P}: where the KV cache of the prompt is; or, if it knows what announce means, with a
             stream whose first event has them: where it will be
    decode   {"messages": .., "max_tokens": 90, "stream": true, "kv_transfer_params": P}

The form is that of vLLM's NixlConnector, which takes no notice of announce. All other fields stay as they came, byte for byte.
"""

from __future__ import annotations

import re

import msgspec

from headway.server.errors import RequestError

PARAMS = "kv_transfer_params"
_ASKED = {"do_remote_decode": True, "do_remote_prefill": False, "announce": True}
_NULL = b"null"
_NAMED = re.compile(rb'"%b"\s*:' % PARAMS.encode())
_ESCAPED = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
# Whose answer is not made of the prompt's KV cache and one sequence alone: the decode server does all of it.
_NOT_PAIRED = ("prompt_logprobs", "echo", "use_beam_search", "prompt_embeds")
_COUNTS = ("n", "best_of")
# Of the answer's end and form, which the prefill server's one token has not.
_NOT_OF_PREFILL = ("stream_options", "min_tokens")

_Fields = dict[str, msgspec.Raw]
_read_fields = msgspec.json.Decoder(_Fields).decode
_encode = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(_NULL)


_read_answer = msgspec.json.Decoder(_Answer).decode


def refuse_own_params(body: bytes) -> None:
    """Raises RequestError for a request, of any path, that says itself where KV is: a decode server would connect to there, and only the
    servers' own words are good enough for that. What is no JSON here may be some to a server: lines, numbers that JSON has not, UTF-16."""
    if PARAMS.encode() not in body and b"\\u" not in body and b"\0" not in body:
        return
    try:
        is_named = _is_set(_read_fields(body), PARAMS)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        plain = _ESCAPED.sub(lambda escaped: bytes.fromhex(escaped[1].decode()), body.replace(b"\0", b""))
        is_named = _NAMED.search(plain) is not None
    if is_named:
        raise RequestError("kv_transfer_params is between the servers behind this address: leave it out.", PARAMS)


def prefill_body(body: bytes) -> bytes | None:
    """None for a request that is not paired, or that no server would take."""
    try:
        fields = _read_fields(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not _is_one_prompt(fields) or any(_is_set(fields, name) for name in _NOT_PAIRED):
        return None
    if any(_is_set(fields, name) and bytes(fields[name]) != b"1" for name in _COUNTS):
        return None
    changed: dict[str, object] = {name: value for name, value in fields.items() if name not in _NOT_OF_PREFILL}
    changed |= {"stream": False, "max_tokens": 1, PARAMS: _ASKED}
    if "max_completion_tokens" in fields:
        changed["max_completion_tokens"] = 1
    return _encode(changed)


def params_of(answer: bytes) -> msgspec.Raw | None:
    """Where the prefill server keeps the KV cache; None where it says nothing of that."""
    try:
        params = _read_answer(answer).kv_transfer_params
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return params if bytes(params)[:1] == b"{" else None


def announced_params(event: bytes) -> msgspec.Raw | None:
    """As ``params_of``, from an event of a stream."""
    return next((params_of(line[5:]) for line in event.splitlines() if line.startswith(b"data:")), None)


def decode_body(body: bytes, params: msgspec.Raw) -> bytes:
    """``body`` is one that has a ``prefill_body``."""
    return _encode({**_read_fields(body), PARAMS: params})


def _is_one_prompt(fields: _Fields) -> bool:
    """A conversation, a text, or the tokens of one: a list of prompts has no one place for its KV cache."""
    if _is_set(fields, "messages"):
        return True
    prompt = bytes(fields.get("prompt", msgspec.Raw(_NULL)))
    return prompt[:1] == b'"' or (prompt[:1] == b"[" and prompt[1:].lstrip()[:1].isdigit())


def _is_set(fields: _Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]) not in (_NULL, b"false")
