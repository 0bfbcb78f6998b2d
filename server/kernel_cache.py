"""Where the engine process keeps the kernels that Triton compiles: what lies there is loaded and run, libraries of the host included."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.source.cache import VARIABLE, require_own

log = logging.getLogger(__name__)

_BLOCK = bytes(4096)  # more than a full disk takes


def kernel_cache(cache_dir: Path, private: Path) -> Path:
    """`triton/` of ``cache_dir``, made for this user alone if it is not there. Where it can't be written or somebody else may write to it,
    `triton/` of ``private``, which ends with this server: then kernels are compiled at every start, and the log says why."""
    directory = cache_dir / "triton"
    objection = _objection(directory)
    if objection is None:
        return directory
    log.warning("Compiled kernels are kept until this server ends, not for the next one: %s", objection)
    return private / "triton"


def _objection(directory: Path) -> str | None:
    try:
        require_own(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(_BLOCK)
        found, is_noexec = directory.stat(), os.statvfs(directory).f_flag & os.ST_NOEXEC
    except ModelSourceError as problem:
        return str(problem)
    except OSError as problem:
        return f"{directory} can't be written ({problem.strerror or problem}); set {VARIABLE} to a directory that can."
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        return f"others may write to {directory}, and what is there is run; remove it, or set TRITON_CACHE_DIR if you trust them."
    if is_noexec:
        return (
            f"{directory} is mounted noexec, so nothing that is compiled can be run from it; mount it exec (docker run --tmpfs /tmp:exec)."
        )
    return None
