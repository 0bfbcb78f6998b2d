"""Answers as a server does, from memory, so that the time behind a router is the router's own: `bare_server.py PORT STEP_MS`.

A request that asks for a stream gets an event for each of its max_tokens, one each STEP_MS; all others get a completion at once.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT named_metrics.kv_cache_usage_perc=0.1, named_metrics.num_requests_waiting=0\r\n"
_BODY = b'{"object": "text_completion", "choices": [{"index": 0, "text": " word", "finish_reason": "length"}]}'
_WHOLE = _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
_EVENT = b'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": null}]}\n\n'
_STREAM = _HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Asked(msgspec.Struct):
    max_tokens: int


_read = msgspec.json.Decoder(_Asked).decode


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step_s: float) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            if b'"stream":true' in body:
                writer.write(_STREAM)
                for _ in range(_read(body).max_tokens):
                    await asyncio.sleep(step_s)
                    writer.write(b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT))
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(_WHOLE)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve(port: int, step_s: float) -> None:
    async with await asyncio.start_server(lambda reader, writer: _answer(reader, writer, step_s), "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1e3))
