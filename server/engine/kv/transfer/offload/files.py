"""Blocks as files of one rank: found again after a restart, and never taken for what they are not.

::

    DIRECTORY/                    the operator's, of any number of servers and models
      <layout>-engine-0-rank-0/   0700, of one process at a time
        lock
        3f/3f9c...                a block, by the hash of its content: header, then its bytes
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from pathlib import Path
from tempfile import TemporaryFile

from headway.server.errors import ConfigError

log = logging.getLogger(__name__)

_HEADER = struct.Struct(">8s32s32sQI")  # magic, layout, hash, bytes, CRC-32 of them
_MAGIC = b"HWKVBLK1"
_HASH_DIGITS = 64
HEADER_BYTES = _HEADER.size


class Unreadable(Exception):
    """A block's file is not what it should be. In one clause."""


def usable_directory(disk_path: str) -> Path:
    """It is made if it is not there. Raises ConfigError."""
    parent = Path(disk_path)
    try:
        parent = parent.expanduser()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=parent):
            return parent
    except (OSError, RuntimeError, ValueError) as problem:  # RuntimeError: ~nobody; ValueError: a NUL in the path
        why = getattr(problem, "strerror", None) or problem
        raise ConfigError([f"KV offload: disk_path {parent} can't be used: {why}"]) from None


class BlockFiles:
    """Used from one thread."""

    def __init__(self, parent: Path, name: str, layout: bytes, block_bytes: int) -> None:
        """``layout``: 32 bytes that differ wherever the same hash means other bytes. Raises ConfigError where ``parent`` has no place."""
        self._layout = layout
        self._block_bytes = block_bytes
        self._directory = parent / f"{layout.hex()[:16]}-{name}"
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            facts = self._directory.stat()
            if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
                raise ConfigError([f"KV offload: {self._directory} is open to other users: chown it to this server's, and chmod it 700"])
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise ConfigError([f"KV offload: disk_path {parent} can't be used: {problem.strerror}"]) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError([f"KV offload: another server uses {self._directory}: give each a disk_path of its own"]) from None
        self._has_told = False

    def find(self) -> list[bytes]:
        """What is there, the least recently used one first. What was half written is removed, what is foreign left alone."""
        found: list[tuple[float, bytes]] = []
        num_foreign = 0
        for folder in os.scandir(self._directory):
            for entry in os.scandir(folder.path) if folder.is_dir(follow_symlinks=False) else ():
                if entry.name.endswith(".new"):
                    os.unlink(entry.path)
                elif (block_hash := _hash_of(entry.name)) is None or not entry.is_file(follow_symlinks=False):
                    num_foreign += 1
                elif (facts := entry.stat(follow_symlinks=False)).st_size == HEADER_BYTES + self._block_bytes:
                    found.append((facts.st_mtime, block_hash))
                else:
                    self._tell(Path(entry.path), "it has not the size of a block")
                    os.unlink(entry.path)
        if num_foreign:
            log.warning("KV offload: %d files in %s are not ours: they are left alone", num_foreign, self._directory)
        return [block_hash for _, block_hash in sorted(found)]

    def write(self, block_hash: bytes, content: memoryview) -> None:
        """There whole or not at all. Raises OSError."""
        path = self._path(block_hash)
        new = path.with_suffix(".new")
        header = _HEADER.pack(_MAGIC, self._layout, block_hash, len(content), zlib.crc32(content))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(header)
                file.write(content)
            new.rename(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def read(self, block_hash: bytes, into: memoryview) -> None:
        """Fills ``into``. Raises Unreadable for a file that is not there, or is not what was written; the latter is removed, and told of
        once."""
        path = self._path(block_hash)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                header, num_bytes = file.read(HEADER_BYTES), file.readinto(into)
            os.utime(path)
        except OSError as problem:
            raise Unreadable(problem.strerror or str(problem)) from None
        expected = _HEADER.pack(_MAGIC, self._layout, block_hash, len(into), zlib.crc32(into))
        if num_bytes != len(into) or header != expected:
            self._tell(path, "its content is not what was written")
            self.remove(block_hash)
            raise Unreadable("a file is damaged")

    def remove(self, block_hash: bytes) -> None:
        """One that is not there is no error."""
        self._path(block_hash).unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._lock)

    def _path(self, block_hash: bytes) -> Path:
        name = block_hash.hex()
        return self._directory / name[:2] / name

    def _tell(self, path: Path, why: str) -> None:
        if not self._has_told:
            log.warning("KV offload: %s is damaged (%s) and removed; others that are will not be told of", path, why)
            self._has_told = True


def _hash_of(name: str) -> bytes | None:
    try:
        return bytes.fromhex(name) if len(name) == _HASH_DIGITS else None
    except ValueError:
        return None
