"""Chunks of streams, byte by byte."""

from __future__ import annotations

import pytest

from headway.server.api.json_text import encode
from headway.server.api.serving.chunks import ChunkWriter


@pytest.mark.parametrize("text", [" word", 'a "quote"\\', "line\nend\u2028", "\ud83d", "snow \u2603", "\x00"])
@pytest.mark.parametrize("fingerprint", [None, "fp"])
@pytest.mark.parametrize("index", [0, 12])
def test_a_plain_chunk_is_what_the_general_way_writes(text: str, fingerprint: str | None, index: int) -> None:
    writer = ChunkWriter("chat.completion.chunk", "chatcmpl-1", 1, "a %s model", fingerprint)
    delta = b'"delta":' + encode({"content": text})
    expected = writer.choice(index, delta, logprobs=None, finish_reason=None, stop_reason=None)
    assert writer.plain(index, b'"delta":{"content":', text, b"}") == expected
