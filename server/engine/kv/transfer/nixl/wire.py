"""The side channel between two servers: who may read which blocks, said over TCP by one rank to one rank.

::

    reader                                  keeper
               <- greeting, nonce            on every connection, at once: nothing is sent to whatever does not greet
    nonce ->
    Claim ->   <- Granted or Refused
    Next ->    <- Ready or Refused           as often as it takes: which blocks are computed, as soon as there are more
    Release -> <- Released                   it held until now, so what was read is right; or it did not

A frame is a length, a MAC and MessagePack. The MAC's key is both nonces and the key file's content; without such a file it proves
nothing, and the channel must be private.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from hashlib import sha256

import msgspec

from headway.server.engine.kv.transfer.layout import BlockLayout

GREETING = b"headway-kv 4\n"
_NONCE_BYTES = 32
_MAC_BYTES = 32
_MAX_FRAME_BYTES = 16 << 20  # of a keeper: 2 million block ids
_MAX_ASKED_BYTES = 64 << 10  # of a reader, who may be anybody until its MAC is checked, behind the frame


class ChannelError(Exception):
    """What the other side says is not to be believed, or it has gone. In one clause."""


class Claim(msgspec.Struct, tag=True, frozen=True):
    """``wants_checksums``: of the blocks, one each."""

    token: str
    digest: bytes
    layout: BlockLayout
    wants_checksums: bool = False


class Granted(msgspec.Struct, tag=True, frozen=True):
    """``addresses``: of each layer's keys, then its values, on ``device``, of which NIXL's ``agent`` is the reader's way there."""

    num_blocks: int  # in the cache
    agent: bytes
    addresses: list[int]
    memory: str
    device: int


class Next(msgspec.Struct, tag=True, frozen=True):
    """The reader has the prompt's first ``num_blocks`` blocks, and of the ``num_begun`` behind them the first ``num_layers`` layers."""

    num_blocks: int
    num_begun: int
    num_layers: int


class Ready(msgspec.Struct, tag=True, frozen=True):
    """What is computed behind that: of these blocks the layers up to ``end_layer``. If some layers of some were there, of just those.

    There may be none for now; once the prompt ``is_whole`` none come any more. ``checksums``, where the claim wants them: one a block, of
    the layers that are told.
    """

    block_ids: list[int]
    is_whole: bool
    end_layer: int
    checksums: list[int] = []


class Refused(msgspec.Struct, tag=True, frozen=True):
    reason: str


class Release(msgspec.Struct, tag=True, frozen=True):
    token: str


class Released(msgspec.Struct, tag=True, frozen=True):
    was_held: bool


Message = Claim | Granted | Refused | Next | Ready | Release | Released
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One connection, greeted. Closed by whoever made it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, *, is_keeper: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._is_keeper = is_keeper
        self._num_sent = 0
        self._num_received = 0

    @classmethod
    async def greeted(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, *, is_keeper: bool) -> Channel:
        """Raises ChannelError."""
        own = secrets.token_bytes(_NONCE_BYTES)
        if is_keeper:
            writer.write(GREETING + own)
            nonces = own + await _exactly(reader, _NONCE_BYTES)
        else:
            if await _exactly(reader, len(GREETING)) != GREETING:
                raise ChannelError("no Headway server of this version answers there")
            nonces = await _exactly(reader, _NONCE_BYTES) + own
            writer.write(own)
        return cls(reader, writer, hmac.digest(secret, b"side channel" + nonces, "sha256"), is_keeper=is_keeper)

    def send(self, message: Message) -> None:
        body = msgspec.msgpack.encode(message)
        mac = self._mac(body, self._num_sent, by_keeper=self._is_keeper)
        self._num_sent += 1
        self._writer.write(len(body).to_bytes(4, "big") + mac + body)

    async def receive(self) -> Message:
        """Raises ChannelError."""
        num_bytes = int.from_bytes(await _exactly(self._reader, 4), "big")
        if num_bytes > (_MAX_ASKED_BYTES if self._is_keeper else _MAX_FRAME_BYTES):
            raise ChannelError("the other side sends a message that is too long")
        mac, body = await _exactly(self._reader, _MAC_BYTES), await _exactly(self._reader, num_bytes)
        expected = self._mac(body, self._num_received, by_keeper=not self._is_keeper)
        self._num_received += 1
        if not hmac.compare_digest(mac, expected):
            raise ChannelError("the two servers do not have the same key_file")
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise ChannelError(f"the other side sends what is no message of this version ({problem})") from None

    async def ask(self, message: Message) -> Message:
        """Raises ChannelError."""
        self.send(message)
        return await self.receive()

    def _mac(self, body: bytes, number: int, *, by_keeper: bool) -> bytes:
        """Of the ``number``th message of one side: none can be repeated, left out or sent back."""
        return hmac.digest(self._key, b"%d %d " % (by_keeper, number) + sha256(body).digest(), "sha256")


async def _exactly(reader: asyncio.StreamReader, num_bytes: int) -> bytes:
    try:
        return await reader.readexactly(num_bytes)
    except (asyncio.IncompleteReadError, OSError):
        raise ChannelError("the connection was closed") from None


def mismatch(keeper: BlockLayout, reader: BlockLayout) -> str | None:
    """Why a reader can't use a keeper's blocks, in a clause; None: it can."""
    for name in BlockLayout.__struct_fields__:
        there, here = getattr(keeper, name), getattr(reader, name)
        if there != here:
            return f"{_WORDS.get(name, name)} differs: {there} at the prefill server, {here} at the decode server: start both alike"
    return None


_WORDS = {
    "model": "the model",
    "weight_format": "the format of the weights",
    "dtype": "--kv-cache-dtype",
    "page_size": "--block-size",
    "num_stages": "--pipeline-parallel-size",
    "num_tensor_ranks": "--tensor-parallel-size",
    "num_prompt_shares": "--prefill-context-parallel-size",
    "num_context_ranks": "--decode-context-parallel-size",
    "interleave": "--cp-kv-cache-interleave-size",
    "rotation": "the rotation of keys, which --max-model-len decides for this model,",
}
