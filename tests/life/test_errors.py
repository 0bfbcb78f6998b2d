"""The one sentence that an exception is told as."""

from __future__ import annotations

import errno

import pytest

from headway.server.errors import ConfigError, sentence_of


@pytest.mark.parametrize(
    ("problem", "parts"),
    [
        (ConfigError(["--port 1: taken"]), ["--port 1: taken"]),
        (MemoryError(), ["out of memory (MemoryError)", "--kv-cache-memory-bytes"]),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            ["out of memory (RuntimeError: CUDA", "--gpu-memory-utilization"],
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), ["out of memory", "larger machine"]),
        (ModuleNotFoundError("No module named 'zmq'"), ["incomplete or broken", "No module named 'zmq'"]),
        (OSError(errno.ENOSPC, "No space left on device", "/cache/x"), ["the disk is full", "/cache/x", "HEADWAY_CACHE"]),
        (OSError(errno.EACCES, "Permission denied", "/x"), ["PermissionError: [Errno 13] Permission denied: '/x'"]),
        (KeyError("x"), ["KeyError: 'x'"]),
        (RuntimeError(), ["RuntimeError"]),
        (ValueError("first\nsecond"), ["ValueError: first"]),
    ],
)
def test_one_sentence(problem: Exception, parts: list[str]) -> None:
    sentence = sentence_of(problem)
    assert all(part in sentence for part in parts), sentence
    assert "\n" not in sentence
    assert "second" not in sentence
