"""The API keys that are valid now: those of the options, and those of a file that may change while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headway.server.api.file_watch import keep_looking
from headway.server.config.security import SecurityConfig
from headway.server.errors import ConfigError
from headway.server.words import plural

log = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024
# A name is told from a key by the hash behind it: a key may hold an equals sign, as base64 does.
_HASHED = re.compile(r"(?:([A-Za-z0-9._@-]{1,64})\s*=\s*)?sha256:([0-9a-fA-F]{64})", re.ASCII)
_BROKEN_HASH = re.compile(r"(?:[^\s=]+\s*=\s*)?sha256:.*", re.IGNORECASE)
# Quotes, commas and blanks come from other formats: taken for a part of the key, they would lock everybody out without a word.
_PLAIN = re.compile(r"""[\x21\x23-\x26\x28-\x2b\x2d-\x7e]+""", re.ASCII)  # all that is visible but " ' ,


@dataclass(frozen=True, slots=True)
class Key:
    """One valid key, as its SHA-256. ``name`` is for the log, empty where the file gives none."""

    digest: bytes
    name: str = ""


class ApiKeys:
    """Whoever holds the list of valid keys asks ``find``; ``watch`` keeps it up to date. No key is kept, only hashes."""

    def __init__(self, security: SecurityConfig) -> None:
        """Reads the file. Raises ConfigError where it can't be used."""
        self._fixed = tuple(Key(digest_of(key.encode())) for key in security.api_key)
        self._path = Path(security.api_key_file).expanduser() if security.api_key_file is not None else None
        self._of_file: tuple[Key, ...] = ()
        self._content = b""  # hash of the file as it was last read
        self._complaint = ""
        if self._path is not None:
            try:
                self._of_file = self._read(self._path)
            except _Unusable as problem:
                raise ConfigError([f"--api-key-file {self._path}: {problem}"]) from None

    def find(self, key: bytes) -> Key | None:
        """The valid key that ``key`` is. All are compared, so that the time tells nothing about which one is close."""
        digest = digest_of(key)
        matches = [known for known in (*self._fixed, *self._of_file) if hmac.compare_digest(digest, known.digest)]
        return matches[0] if matches else None

    async def watch(self) -> None:
        """Follows the file until it is cancelled."""
        if self._path is not None:
            await keep_looking(self.reload)

    def reload(self) -> None:
        """Takes over what the file holds now. If it can't be used the keys stay as they are, and the log says so, once."""
        assert self._path is not None, "there is a file to follow"
        before = self._content
        try:
            keys = self._read(self._path)
        except _Unusable as problem:
            if str(problem) != self._complaint:
                log.warning("--api-key-file %s: %s; the keys before stay valid", self._path, problem)
            self._complaint = str(problem)
            return
        self._complaint = ""
        if self._content != before:
            self._of_file = keys
            log.info("--api-key-file %s has changed and holds %s now", self._path, plural(len(keys), "key"))

    def _read(self, path: Path) -> tuple[Key, ...]:
        """Raises _Unusable."""
        try:
            content = _content_of(path)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody; ValueError: a NUL in the path
            raise _Unusable(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
        keys = tuple(_keys_in(content))
        if not keys:
            raise _Unusable("holds no key; write one a line, or leave the option out to serve without keys")
        self._content = hashlib.sha256(content).digest()
        return keys


class _Unusable(Exception):
    """The file can't be used; ``str()`` says why, and nothing of what it holds."""


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _content_of(path: Path) -> bytes:
    # Not blocking: a pipe without a writer would hold up the start.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Unusable("is no file that can be read again")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise _Unusable(f"is larger than {MAX_BYTES // 1024**2} MiB")
    return content


def _keys_in(content: bytes) -> Iterable[Key]:
    """Raises _Unusable for a line that is no key: half a file must not be taken for the whole."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n"), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if hashed := _HASHED.fullmatch(text):
            yield Key(bytes.fromhex(hashed[2]), hashed[1] or "")
        elif _BROKEN_HASH.fullmatch(text):
            raise _Unusable(f"line {number} must be sha256: and 64 hexadecimal digits, or NAME=sha256: and these (it is not shown)")
        elif _PLAIN.fullmatch(text):
            yield Key(digest_of(text.encode()))
        else:
            raise _Unusable(f"line {number} is no key: a key is one word of visible ASCII characters without quotes and commas")
