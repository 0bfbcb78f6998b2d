"""The side channel against whoever speaks something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from headway.server.engine.kv.transfer.layout import BlockLayout
from headway.server.engine.kv.transfer.nixl.wire import (
    GREETING,
    Channel,
    ChannelError,
    Release,
    Released,
    mismatch,
)

LAYOUT = BlockLayout(
    model="m",
    weight_format="fp32",
    dtype="float32",
    page_size=16,
    num_stages=1,
    num_tensor_ranks=4,
    num_prompt_shares=1,
    num_context_ranks=2,
    interleave=1,
    num_layers=2,
    num_kv_heads=1,
    head_dim=8,
    rank=0,
    rotation=0,
)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def connected(keeper: Talk, reader: Talk) -> None:
    """Runs both ends of a connection; raises what the reader's raises."""

    async def run() -> None:
        failures: list[BaseException] = []

        async def serve(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await keeper(stream, writer)
            except ChannelError as failure:
                failures.append(failure)
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        stream, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.timeout(60):
                await reader(stream, writer)
        finally:
            writer.close()
            server.close()

    asyncio.run(run())


def answering(secret: bytes) -> Talk:
    async def talk(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = await Channel.greeted(stream, writer, secret, is_keeper=True)
        while True:
            message = await channel.receive()
            assert isinstance(message, Release)
            channel.send(Released(message.token == "right"))

    return talk


def asking(secret: bytes, *tokens: str) -> Talk:
    async def talk(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = await Channel.greeted(stream, writer, secret, is_keeper=False)
        for token in tokens:
            assert await channel.ask(Release(token)) == Released(token == "right")

    return talk


@pytest.mark.parametrize("secret", [b"", b"a key of some length"])
def test_both_understand_each_other(secret: bytes) -> None:
    connected(answering(secret), asking(secret, "right", "wrong", "right"))


def test_another_key_is_noticed() -> None:
    with pytest.raises(ChannelError, match=r"closed|key_file"):
        connected(answering(b"one"), asking(b"other", "right"))


def test_nothing_is_sent_to_what_does_not_greet() -> None:
    received: list[bytes] = []

    async def stranger(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6, and more than a greeting and a nonce would take\r\n")
        received.append(await stream.read())

    with pytest.raises(ChannelError, match="no Headway server of this version"):
        connected(stranger, asking(b"", "right"))
    assert received in ([], [b""])


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"\xff\xff\xff\xff" + b"x" * 64, "too long"),
        (b"\x00\x00\x00\x01" + b"x" * 33, "key_file"),
        (b"\x00\x00", "closed"),
    ],
)
def test_frames_that_are_none(sent: bytes, told: str) -> None:
    async def rude(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING + bytes(32) + sent)
        await writer.drain()
        await stream.read(32)

    with pytest.raises(ChannelError, match=told):
        connected(rude, asking(b"", "right"))


def test_a_stranger_makes_a_keeper_hold_no_more_than_a_claim() -> None:
    """Whoever reaches the port, of as many connections as there may be: the MAC is checked when all of a frame is there."""

    async def stranger(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stream.readexactly(len(GREETING) + 32)
        writer.write(bytes(32) + (1 << 20).to_bytes(4, "big"))
        await stream.read()

    async def keeper(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = await Channel.greeted(stream, writer, b"", is_keeper=True)
        async with asyncio.timeout(60):
            await channel.receive()

    with pytest.raises(ChannelError, match="too long"):
        connected(stranger, keeper)


def test_what_is_no_message() -> None:
    class Other(msgspec.Struct, tag=True):
        pass

    async def odd(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = await Channel.greeted(stream, writer, b"", is_keeper=True)
        await channel.receive()
        channel.send(Other())  # type: ignore[arg-type]

    with pytest.raises(ChannelError, match="no message of this version"):
        connected(odd, asking(b"", "right"))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x82\xa4type\xa7Release\xa5token\xa1\xff"])
def test_what_is_no_message_pack(body: bytes) -> None:
    async def odd(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = await Channel.greeted(stream, writer, b"", is_keeper=True)
        await channel.receive()
        channel.send(msgspec.Raw(body))  # type: ignore[arg-type]

    with pytest.raises(ChannelError, match="no message of this version"):
        connected(odd, asking(b"", "right"))


def test_messages_can_not_be_reflected_or_repeated() -> None:
    async def mirror(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING + bytes(32))
        await stream.readexactly(32)
        while data := await stream.read(4096):
            writer.write(data)

    with pytest.raises(ChannelError, match="key_file"):
        connected(mirror, asking(b"", "right"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"page_size": 32}, "--block-size differs: 16 at the prefill server, 32 at the decode server: start both alike"),
        ({"num_stages": 2, "num_layers": 1}, "--pipeline-parallel-size differs: 1 "),
        ({"num_prompt_shares": 2, "num_context_ranks": 2}, "--prefill-context-parallel-size differs: 1 "),
        ({"num_tensor_ranks": 2, "num_kv_heads": 2}, "--tensor-parallel-size differs: 4 "),
        ({"num_context_ranks": 4}, "--decode-context-parallel-size differs: 2 "),
        ({"interleave": 8}, "--cp-kv-cache-interleave-size differs: 1 "),
        ({"rotation": 1}, "the rotation of keys, which --max-model-len decides for this model, differs: 0 "),
    ],
)
def test_a_difference_is_named(changes: dict[str, int], told: str) -> None:
    assert mismatch(LAYOUT, LAYOUT) is None
    difference = mismatch(LAYOUT, msgspec.structs.replace(LAYOUT, **changes))
    assert difference is not None
    assert difference.startswith(told)
