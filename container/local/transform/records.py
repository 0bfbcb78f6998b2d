"""Records of a batch transform job's input, the payloads that they are sent in, and the output that the answers make. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BufferedIOBase


class TooLong(Exception):
    """A record, or a whole object, is longer than a payload may be; the text says which."""


def records(stream: BufferedIOBase, max_bytes: int) -> Iterator[bytes]:
    """The lines of a file without their ends; empty ones are none. Raises TooLong."""
    number = 0
    while line := stream.readline(max_bytes + len(b"\r\n") + 1):
        record = line.removesuffix(b"\n").removesuffix(b"\r")
        number += 1
        if len(record) > max_bytes:
            raise TooLong(f"record {number}")
        if record:
            yield record


def whole(stream: BufferedIOBase, max_bytes: int) -> bytes:
    """All of an object as one record. Raises TooLong."""
    content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLong("the object")
    return content


def payloads(lines: Iterable[bytes], max_bytes: int, is_multi: bool) -> Iterator[bytes]:
    """Each record alone, or as many as go into ``max_bytes`` with newlines between them."""
    if not is_multi:
        yield from lines
        return
    held: list[bytes] = []
    num_bytes = 0
    for line in lines:
        if held and num_bytes + 1 + len(line) > max_bytes:
            yield b"\n".join(held)
            held, num_bytes = [], 0
        num_bytes += len(line) + (1 if held else 0)
        held.append(line)
    if held:
        yield b"\n".join(held)


def assembled(answer: bytes, ends_lines: bool) -> bytes:
    """An answer as it stands in the output: AssembleWith Line ends each with a newline, and none with two."""
    return answer + b"\n" if ends_lines and not answer.endswith(b"\n") else answer


def output_key(key: str, prefix: str) -> str:
    """Where the answers to an object go below S3OutputPath: its place below the last folder of the input's prefix, and `.out`."""
    return f"{key[prefix.rfind('/') + 1 :]}.out"
