"""Where a server's processes meet: a directory of mode 0700, so that nobody else on the host may talk to them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headway.server.errors import ConfigError

# A socket's path has 108 bytes with the zero behind it (unix(7)).
_MAX_SOCKET_PATH = 107
_LONGEST_NAME = "out-63-63"


@contextmanager
def private_directory() -> Iterator[Path]:
    """It is there as long as the context. Raises ConfigError where there is no place for one, or only one whose path is too long for
    sockets."""
    directory = _made()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _made() -> Path:
    try:
        directory = Path(tempfile.mkdtemp(prefix="headway-"))
    except OSError as problem:
        raise ConfigError(
            [
                f"no place for the sockets between the server's processes: {problem.strerror}; "
                "give the container a writable /tmp (docker run --tmpfs /tmp), or set TMPDIR to a directory that can be written"
            ]
        ) from problem
    if len(f"{directory}/{_LONGEST_NAME}".encode()) > _MAX_SOCKET_PATH:
        directory.rmdir()
        raise ConfigError([f"the temporary directory {directory.parent} is too long a path for a socket: set TMPDIR to a shorter one"])
    return directory
