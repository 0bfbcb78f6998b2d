"""The one directory below which headway keeps what it fetches or derives, and how things get into it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from headway.server.errors import ModelSourceError

VARIABLE = "HEADWAY_CACHE"
LARGER_DISK = f"set {VARIABLE} to a directory on a larger disk"


def cache_directory(environ: Mapping[str, str]) -> Path:
    """$HEADWAY_CACHE, else `headway` in the user's cache directory, else (a user without a home, as in containers) a temporary one."""
    if named := environ.get(VARIABLE, "").strip():
        return Path(named).expanduser().absolute()
    own = Path(environ.get("XDG_CACHE_HOME", ""))
    if not own.is_absolute():
        own = Path(os.path.expanduser("~/.cache"))
    return own / "headway" if own.is_absolute() else _without_a_home()


def _without_a_home() -> Path:
    import tempfile

    shared = Path(tempfile.gettempdir()) / f"headway-{os.getuid()}"
    # Whoever made it for us could put any model there.
    is_foreign = shared.exists() and shared.lstat().st_uid != os.getuid()
    return Path(tempfile.mkdtemp(prefix="headway-")) if is_foreign else shared


def require_own(directory: Path) -> None:
    """For whoever takes something from `directory`, or writes into it. Raises ModelSourceError if it, or one around it, was made by
    another user where everybody may make things: any model could wait there, or a link that leads our writing elsewhere. What is
    mounted, an administrator has put there."""
    for place in (directory, *directory.parents):
        try:
            owner = place.lstat().st_uid
        except OSError:  # not made yet, or not ours to see
            continue
        is_planted = owner not in (0, os.geteuid()) and place.parent.stat().st_mode & stat.S_IWOTH
        if is_planted and not place.is_mount():
            raise ModelSourceError(
                f"The cache {directory} is not used: {place} belongs to user {owner}, in a directory where everybody may write, and could "
                f"hold anything; remove it, or set {VARIABLE} to a directory of your own."
            )


@contextlib.contextmanager
def keeping(what: str, directory: Path) -> Iterator[None]:
    """Makes `directory`, for what the block writes into it. A disk that refuses becomes one ModelSourceError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"free space there, or {LARGER_DISK}" if full else f"make it writable, or set {VARIABLE} to a directory that is"
        raise ModelSourceError(f"{what} cannot be kept in {directory}: {error.strerror or error}; {advice}.") from error


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock file `path` against other processes and threads; the lock ends with its process, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait:
            on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def publish(folder: Path, target: Path) -> None:
    """Gives a finished folder its name: `target` is there whole or not at all, even after a power failure."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    os.rename(folder, target)
