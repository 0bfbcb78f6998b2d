"""Models packed in a tar archive: unpacked once into the cache, with nothing that could reach outside or fill the disk."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from headway.server.errors import ModelSourceError
from headway.server.source.cache import LARGER_DISK, keeping, locked, publish, require_own
from headway.server.source.progress import Progress
from headway.server.source.space import free_bytes, require_space
from headway.server.words import amount

# Weights shrink by a third at most and texts to a tenth, so an archive that unpacks to more than this is made to do harm.
_MAX_RATIO = 50
_MAX_SMALL_BYTES = 1 << 30
_MAX_MEMBERS = 20_000
# Python's rmtree and rglob recurse: a tree of a thousand folders could neither be used nor removed again.
_MAX_DEPTH = 32
# The longest header or block that is read at once: tarfile keeps headers of any length in memory.
_MAX_READ_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def unpacked(archive: Path, cache_dir: Path, on_progress: Callable[[str], None] | None = None) -> Path:
    """The directory below `cache_dir` with what an archive (.tar, .tar.gz) holds, unpacked if it is not there yet.

    One copy is kept for each path, size and time of change. It appears whole or not at all; several processes at once are fine.
    Raises ModelSourceError, too, for an archive with absolute or `..` paths, links that lead anywhere but below, or devices.
    """
    archive = archive.resolve()
    facts = archive.stat()
    key = hashlib.sha256(f"{archive}\n{facts.st_size}\n{facts.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache_dir / "archives" / f"{archive.name.partition('.')[0]}-{key}"
    require_own(target.parent)
    if target.is_dir():
        return target
    what = f"What {archive} holds"
    with keeping(what, target.parent):
        waiting = f"waiting for another process that unpacks {archive}"
        with locked(target.with_name(target.name + ".lock"), lambda: on_progress(waiting) if on_progress else None):
            if not target.is_dir():
                require_space(facts.st_size, target.parent, what, LARGER_DISK)
                unpack(archive, target, on_progress)
    return target


def unpack(archive: Path, target: Path, on_progress: Callable[[str], None] | None = None) -> None:
    """Makes `target`, in a directory that is there, of what an archive holds. Raises as `unpacked` does."""
    size = archive.stat().st_size
    if on_progress:
        on_progress(f"unpacking {archive} ({amount(size)}) into {target}")
    begun = target.with_name(target.name + ".partial")
    shutil.rmtree(begun, ignore_errors=True)  # a process that was killed left it
    begun.mkdir()
    limit = min(max(size * _MAX_RATIO, _MAX_SMALL_BYTES), free_bytes(begun))
    try:
        with _opened(archive, limit, Progress(f"unpacking {archive}", size, on_progress)) as tar:
            for number, member in enumerate(tar):
                if number >= _MAX_MEMBERS:
                    raise ModelSourceError(f"{archive} holds more than {_MAX_MEMBERS} files, which no model does; name another one.")
                _require_safe(member, archive)
                if member.isdir():  # tarfile would keep it from every other user
                    (begun / member.name).mkdir(parents=True, exist_ok=True)
                else:
                    tar.extract(member, begun, set_attrs=False)
        publish(begun, target)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _require_safe(member: tarfile.TarInfo, archive: Path) -> None:
    """Raises ModelSourceError for a member that could reach outside, or is no file, directory or link.

    Not Python's own filter: releases before 3.11.4 (Debian 12 has 3.11.2) have none, and before 3.11.13 it can be led outside through
    chains of links. Here no link may have `..` in its target: all of them lead downwards, and nothing written through them can leave.
    """
    paths = {"path": member.name} | ({"link": member.linkname} if member.islnk() or member.issym() else {})
    for kind, text in paths.items():
        if PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts:
            advice = "; pack it with `tar --dereference`" if kind == "link" else ""
            raise ModelSourceError(f"{archive} is refused: the {kind} {text!r} of its member {member.name!r} leads outside{advice}.")
    if member.name.count("/") > _MAX_DEPTH:
        raise ModelSourceError(f"{archive} is refused: its member {member.name[:80]!r}... lies more than {_MAX_DEPTH} folders deep.")
    # The holes of a sparse file count for nothing in the archive's length.
    if member.issparse():
        raise ModelSourceError(f"{archive} is refused: its member {member.name!r} is sparse; pack it without `tar --sparse`.")
    if not (member.isreg() or member.isdir() or member.islnk() or member.issym()):
        raise ModelSourceError(f"{archive} is refused: its member {member.name!r} is neither a file nor a directory nor a link.")


@contextlib.contextmanager
def _opened(archive: Path, limit: int, progress: Progress) -> Iterator[tarfile.TarFile]:
    """The archive to read once from its beginning. Every fault of it becomes one ModelSourceError."""
    with open(archive, "rb") as packed:
        is_gzip = packed.read(2) == _GZIP_MAGIC
        packed.seek(0)
        content = cast(IO[bytes], gzip.GzipFile(fileobj=packed)) if is_gzip else packed
        bounded = cast(IO[bytes], _Bounded(content, limit, archive, lambda: progress.reach(packed.tell())))
        try:
            with tarfile.TarFile(fileobj=bounded, copybufsize=_MAX_READ_BYTES, errorlevel=2) as tar:
                tar.extraction_filter = lambda member, path: member  # the caller judges
                yield tar
        # The last four: what tarfile lets through for headers that were made to confuse it.
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, LookupError, OverflowError, RecursionError) as error:
            raise ModelSourceError(f"{archive} is no whole tar archive ({error}); copy it again.") from error


class _Bounded:
    """A tar stream that ends in an error where it gets longer than `limit`, or is read in blocks that no honest archive needs."""

    def __init__(self, stream: IO[bytes], limit: int, archive: Path, on_read: Callable[[], None]) -> None:
        self._stream = stream
        self._limit = limit
        self._archive = archive
        self._on_read = on_read

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > _MAX_READ_BYTES:
            raise ModelSourceError(f"{self._archive} is refused: it has a header of {amount(num_bytes)}.")
        self._check(self._stream.tell() + num_bytes)
        self._on_read()
        return self._stream.read(num_bytes)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise ModelSourceError(
                f"{self._archive} unpacks to more than {amount(self._limit)}, which is what the disk has room for or {_MAX_RATIO} "
                f"times its size: check what it is, or {LARGER_DISK}."
            )
