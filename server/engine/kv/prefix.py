"""Names for the content of a full KV block: equal names, equal tokens from the start of the sequence to the block's end.

SHA-256, not Python's hash: several tenants share a cache, and a collision that one of them can build would show him the others'
keys and values. A hash chains to its parent's, so one lookup a block finds the longest cached prefix.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import sha256

MAX_TOKEN_ID = 2**31 - 1  # token ids are hashed as int32, negative ones are not accepted
_NO_SALT = bytes(32)
_TOP_BYTE = 3 if sys.byteorder == "little" else 0


def are_token_ids(numbers: Sequence[int]) -> bool:
    """Whether all are 0 to MAX_TOKEN_ID: 33 us for 4,608 of them, where min() and max() take 96 (2026-11)."""
    try:
        packed = array("I", numbers).tobytes()
    except OverflowError:
        return False
    return packed[_TOP_BYTE::4].isascii()  # below 2**31


def root_hash(cache_salt: str | None, adapter_id: int | None = None) -> bytes:
    """The parent of a sequence's first block: sequences with different salts, or different adapters, share nothing. 32 bytes."""
    root = _NO_SALT if cache_salt is None else sha256(b"salt:" + cache_salt.encode("utf-8", "surrogatepass")).digest()
    return root if adapter_id is None else sha256(b"adapter:%d:%b" % (adapter_id, root)).digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Of a full block with these tokens behind ``parent``. 32 bytes."""
    # "I", which no accepted id differs in, is 2.6 times as fast to fill as "i": 3.0 us for 512 tokens (2026-11).
    return sha256(parent + array("I", token_ids).tobytes()).digest()


def extend_hashes(
    hashes: list[bytes], num_blocks: int, token_ids: Sequence[int], block_size: int, cache_salt: str | None, adapter_id: int | None = None
) -> None:
    """Appends to ``hashes`` until it has those of the first ``num_blocks`` full blocks; each is computed once in a request's life."""
    for index in range(len(hashes), num_blocks):
        parent = hashes[-1] if hashes else root_hash(cache_salt, adapter_id)
        hashes.append(block_hash(parent, token_ids[index * block_size : (index + 1) * block_size]))
