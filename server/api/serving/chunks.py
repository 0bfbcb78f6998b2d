"""Stream chunks from parts encoded once a stream: a chunk costs a few microseconds, and there are thousands a second."""

from __future__ import annotations

from typing import Any

from headway.server.api.json_text import encode
from headway.server.api.serving.generate import Usage


class ChunkWriter:
    """Writes the chunks of one stream: ``{id, object, created, model, choices: [..]}``."""

    def __init__(self, kind: str, public_id: str, created: int, model_name: str, fingerprint: str | None) -> None:
        head = encode({"id": public_id, "object": kind, "created": created, "model": model_name})
        self._start = head[:-1] + b',"choices":['
        self._fingerprint = b"" if fingerprint is None else b',"system_fingerprint":' + encode(fingerprint)

    def plain(self, index: int, before: bytes, text: str, after: bytes) -> bytes:
        """As ``choice`` writes a chunk that brings ``text`` and nothing else; ``before`` and ``after`` make a member of it."""
        return b'%b{"index":%d,%b%b%b,"logprobs":null,"finish_reason":null}]}' % (self._start, index, before, encode(text), after)

    def choice(
        self,
        index: int,
        content: bytes,
        *,
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
        stop_reason: int | str | None,
        extra: dict[str, Any] | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        """One chunk. ``content`` is the encoded member that carries the text, ``extra`` further members of the choice.

        A choice's last one tells the fingerprint.
        """
        parts = [self._start, b'{"index":%d,' % index, content, b',"logprobs":', encode(logprobs) if logprobs else b"null"]
        if finish_reason is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += (b',"finish_reason":', encode(finish_reason), b',"stop_reason":', encode(stop_reason))
        if extra:
            parts += (b",", encode(extra)[1:-1])
        parts.append(b"}]" if finish_reason is None else b"}]" + self._fingerprint)
        if usage is not None:
            parts += (b',"usage":', encode(usage.as_dict()))
        parts.append(b"}")
        return b"".join(parts)

    def usage(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes:
        """The chunk behind the last choice."""
        told = b',"metrics":' + encode(metrics) if metrics is not None else b""
        return b"".join((self._start, b"]", self._fingerprint, b',"usage":', encode(usage.as_dict()), told, b"}"))
