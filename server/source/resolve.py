"""From what the user calls a model to files on this machine: `demo`, a path, `s3://...`, a Hub id."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headway.server.errors import ModelSourceError
from headway.server.source.demo import DEMO_NAME, demo_model
from headway.server.source.directory import LoadFormat, archive_in, folders_of, model_in, names_in, why_no_model
from headway.server.source.files import ModelFiles
from headway.server.source.gguf_parts import first_part
from headway.server.source.s3_bucket import SCHEME
from headway.server.source.space import existing
from headway.server.source.weights import is_archive

_FILE = "file://"


def resolve_model(
    name: str,
    *,
    cache_dir: Path,
    revision: str | None = None,
    token: str | None = None,
    download_dir: str | None = None,
    load_format: LoadFormat = "auto",
    ignore_patterns: Sequence[str] = (),
    on_progress: Callable[[str], None] | None = None,
    hub_endpoint: str | None = None,
    stop: threading.Event | None = None,
    with_code: bool = False,
) -> ModelFiles:
    """The local files of the model that the user calls `name`; downloads what is not on this machine yet.

    - `revision`, `token`, `ignore_patterns`, `download_dir` (None: the Hub cache) and `hub_endpoint` (None: the Hub library's own, so
      HF_ENDPOINT) are for Hub models; all other things that are fetched or unpacked go below `cache_dir`.
    - `with_code`: the Python files of a Hub model too, which is trusted; what lies here or in an archive has them anyway.
    - `load_format` "safetensors" or "gguf" accepts only that; "dummy" needs config.json and no weights.
    - `on_progress` gets one line for each thing that takes time, and every few seconds of it; `stop`, once set, ends a fetch of the
      demo model.

    A path that exists wins over a Hub id. Raises ModelSourceError: one sentence with what was looked for, where, and what to do.
    """
    local = _Local(name, load_format, cache_dir, on_progress)
    if name == DEMO_NAME:
        return _demo(local, stop)
    if name.startswith(SCHEME):
        from headway.server.source.s3 import fetch_from_s3

        return local.files(fetch_from_s3(name, load_format, local.cache_dir, on_progress))
    if (path := local_path(name)) is not None:
        return local.files(path)
    from headway.server.source.hub import HubModel

    try:
        hub_model = HubModel(name, revision, token, download_dir, hub_endpoint, tuple(ignore_patterns), with_code=with_code)
        directory = hub_model.fetch(load_format, on_progress)
    except ModelSourceError as error:
        if not _similar(path_of(name)):
            raise
        # "org/name" may just as well have been meant as a folder.
        raise ModelSourceError(f"{str(error).removesuffix('.')}{_nearest(path_of(name))}") from error
    return local.files(directory)


def resolve_tokenizer(
    name: str,
    *,
    cache_dir: Path,
    revision: str | None = None,
    token: str | None = None,
    download_dir: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """The directory or .gguf file of the tokenizer that the user calls `name`: a path, `s3://...` or a Hub id.

    Raises ModelSourceError."""
    if name.startswith(SCHEME):
        from headway.server.source.s3 import fetch_from_s3

        return fetch_from_s3(name, "tokenizer", cache_dir, on_progress)
    path = path_of(name)
    if is_archive(path.name) and path.is_file():
        from headway.server.source.archive import unpacked

        return unpacked(path, cache_dir, on_progress)
    if _is_there(name, path):
        return path
    if name.startswith(_FILE):
        raise ModelSourceError(f"The tokenizer path {name} does not exist{_nearest(path)}")
    from headway.server.source.hub import HubModel

    return HubModel(name, revision, token, download_dir, revision_flag="--tokenizer-revision").fetch_tokenizer(on_progress)


def path_of(name: str) -> Path:
    """A name as a path, whether there is such a one or not; `file:///path` is the path.

    Raises ModelSourceError for a path of another host, or of a user whom this one doesn't know."""
    if not name.startswith(_FILE):
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise ModelSourceError(f"The path {name} names no home directory that is known here; write the whole path.") from error
    parts = urlsplit(name)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ModelSourceError(f"{name} is no path on this machine; write file:///path with three slashes, or the path alone.")
    return Path(unquote(parts.path))


def local_path(name: str) -> Path | None:
    """The path on this machine that a name means; None for what can only be an id of the Hub. Raises ModelSourceError for a path that
    does not exist, or that this user may not look at."""
    path = path_of(name)
    if _is_there(name, path):
        return path
    if _is_path(name):
        raise ModelSourceError(f"The model path {name} does not exist{_nearest(path)}")
    return None


def gguf_file(path: Path, load_format: LoadFormat, name: str) -> ModelFiles:
    """A file that the user named as the whole model, or any of its parts. Raises ModelSourceError for another kind of file."""
    if path.suffix.lower() != ".gguf":
        what = "the one file of a model" if path.suffix == ".safetensors" else "no model"
        raise ModelSourceError(f"{path} is {what}; name a .gguf file, a directory with config.json and *.safetensors, or a .tar.gz of one.")
    if load_format not in ("auto", "gguf"):
        raise ModelSourceError(f"{path} is a GGUF file, which --load-format {load_format} excludes; leave --load-format at auto.")
    return ModelFiles("gguf", None, first_part(path), name)


def _demo(local: _Local, stop: threading.Event | None) -> ModelFiles:
    if local.load_format not in ("auto", "gguf"):
        raise ModelSourceError(
            f"The demo model is a GGUF file, which --load-format {local.load_format} excludes; leave --load-format at auto."
        )
    return ModelFiles("gguf", None, demo_model(local.cache_dir, on_progress=local.on_progress, stop=stop), local.name)


@dataclass(frozen=True)
class _Local:
    """A path on this machine, as the model that the user called `name`."""

    name: str
    load_format: LoadFormat
    cache_dir: Path
    on_progress: Callable[[str], None] | None

    def files(self, path: Path) -> ModelFiles:
        if path.is_file():
            # A file's own name stays, which a link of the Hub's cache does not lead to: it says what it is, and a part of what.
            return self._file(path.parent.resolve() / path.name)
        path = path.resolve()
        if found := model_in(path, self.load_format, self.name):
            return found
        if archive := archive_in(path):
            return self._unpacked(archive)
        raise ModelSourceError(f"{why_no_model(path, self.load_format)}.")

    def _file(self, path: Path) -> ModelFiles:
        if is_archive(path.name):
            return self._unpacked(path)
        return gguf_file(path, self.load_format, self.name)

    def _unpacked(self, archive: Path) -> ModelFiles:
        from headway.server.source.archive import unpacked

        directory = unpacked(archive, self.cache_dir, self.on_progress)
        if found := model_in(directory, self.load_format, self.name):
            return found
        raise ModelSourceError(f"The archive {archive} was unpacked, and {why_no_model(directory, self.load_format)}.")


def _is_path(name: str) -> bool:
    """Whether a name that does not exist here can only have been meant as a path: no Hub id looks like that."""
    return name.startswith(("/", "./", "../", "~", ".", _FILE)) or name.endswith((".gguf", "/")) or "\\" in name or name.count("/") > 1


def _is_there(name: str, path: Path) -> bool:
    """Raises ModelSourceError for a path that this user may not look at."""
    try:
        path.stat()
    except PermissionError as error:
        if _is_path(name):
            raise ModelSourceError(f"{path} cannot be read: {error.strerror}; make it readable for this user.") from error
        return False
    except (OSError, ValueError):  # no such path, or a text that can be none
        return False
    return True


def _deepest_directory(path: Path) -> Path:
    """The nearest directory above `path` that exists."""
    nearest = existing(path.parent)
    return nearest if nearest.is_dir() else nearest.parent


def _similar(path: Path) -> list[str]:
    """Entries of the deepest directory of `path` that exists whose names are like the next part's."""
    parent = _deepest_directory(path)
    wanted = path.absolute().relative_to(parent).parts[0]
    return [str(parent / match) for match in difflib.get_close_matches(wanted, names_in(parent), n=3)]


def _nearest(path: Path) -> str:
    """The end of a sentence about a missing path: what is near it."""
    if similar := _similar(path):
        return f"; did you mean {' or '.join(similar)}?"
    parent = _deepest_directory(path)
    folders = [folder.name for folder in folders_of(parent)][:5]
    holds = f", which holds {', '.join(folders)}" if folders else ""
    return f"; the nearest directory that exists is {parent}{holds}."
