"""From what the user calls a model to files on this machine: `demo`, a directory, a .gguf file, a Hub id."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from headway.server.errors import ModelSourceError
from headway.server.source.cache import cache_directory
from headway.server.source.demo import DEMO_NAME, demo_model
from headway.server.source.files import ModelFiles
from headway.server.source.weights import PICKLE_SUFFIXES, missing_shards, pickle_refusal

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]


def resolve_model(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    download_dir: str | None = None,
    load_format: LoadFormat = "auto",
    on_progress: Callable[[str], None] | None = None,
    cache_dir: Path | None = None,
    hub_endpoint: str | None = None,
    stop: threading.Event | None = None,
) -> ModelFiles:
    """The local files of the model that the user calls `name`; downloads what is not on this machine yet.

    - `revision`, `token`, `download_dir` (None: the Hub cache) and `hub_endpoint` (None: the Hub library's own, so HF_ENDPOINT)
      are for Hub models; `cache_dir` (None: the user's cache directory for headway) is for the demo model.
    - `load_format` "safetensors" or "gguf" accepts only that; "dummy" needs config.json and no weights.
    - `on_progress` gets one line for each thing that takes time; `stop`, once set, ends a fetch of the demo model.

    A path that exists wins over a Hub id. Raises ModelSourceError: one sentence with what was looked for, where, and what to do.
    """
    if name == DEMO_NAME:
        return _demo(name, load_format, on_progress, cache_dir, stop)
    path = Path(name).expanduser()
    if path.exists():
        return _local(name, path, load_format)
    if _is_path(name):
        raise ModelSourceError(f"The model path {name} does not exist{_nearest(path)}.")
    from headway.server.source.hub import HubModel

    try:
        directory = HubModel(name, revision, token, download_dir, hub_endpoint).fetch(load_format, on_progress)
    except ModelSourceError as error:
        if not _similar(path):
            raise
        # "org/name" may just as well have been meant as a folder.
        raise ModelSourceError(f"{str(error).removesuffix('.')}{_nearest(path)}.") from error
    return _local(name, directory, load_format)


def _demo(
    name: str,
    load_format: LoadFormat,
    on_progress: Callable[[str], None] | None,
    cache_dir: Path | None,
    stop: threading.Event | None,
) -> ModelFiles:
    if load_format not in ("auto", "gguf"):
        raise ModelSourceError(f"The demo model is a GGUF file, which --load-format {load_format} excludes; leave --load-format at auto.")
    return ModelFiles("gguf", None, demo_model(cache_dir or cache_directory({}), on_progress=on_progress, stop=stop), name)


def _local(name: str, path: Path, load_format: LoadFormat) -> ModelFiles:
    path = path.resolve()
    if path.is_file():
        return _local_file(name, path, load_format)
    found = _look_into(name, path, load_format)
    if found is None:
        # An unpacked archive often has its one folder inside.
        inner = [files for folder in _folders(path) if (files := _look_into(name, folder, load_format))]
        if len(inner) > 1:
            folders = ", ".join(files.path.name for files in inner)
            raise ModelSourceError(f"The directory {path} holds {len(inner)} models ({folders}); name one of them.")
        found = inner[0] if inner else None
    if found is None:
        raise ModelSourceError(_why_nothing(path, load_format))
    return found


def _local_file(name: str, path: Path, load_format: LoadFormat) -> ModelFiles:
    if path.suffix.lower() != ".gguf":
        what = "the one file of a model" if path.suffix == ".safetensors" else "no model"
        raise ModelSourceError(f"{path} is {what}; name a .gguf file or a directory with config.json and *.safetensors.")
    if load_format not in ("auto", "gguf"):
        raise ModelSourceError(f"{path} is a GGUF file, which --load-format {load_format} excludes; leave --load-format at auto.")
    return ModelFiles("gguf", None, path, name)


def _look_into(name: str, directory: Path, load_format: LoadFormat) -> ModelFiles | None:
    """The model right in this directory, or None. Several GGUF files with nothing else are an error."""
    has_config = (directory / "config.json").is_file()
    if load_format == "dummy":
        return ModelFiles("safetensors", directory, None, name) if has_config else None
    if load_format != "gguf" and has_config and any(directory.glob("*.safetensors")):
        missing = missing_shards(directory)
        if missing:
            raise ModelSourceError(
                f"The model in {directory} is incomplete: {len(missing)} weight files are missing, such as {missing[0]}; copy them too."
            )
        return ModelFiles("safetensors", directory, None, name)
    ggufs = sorted(directory.glob("*.gguf")) if load_format != "safetensors" else []
    if len(ggufs) > 1:
        names = ", ".join(gguf.name for gguf in ggufs[:5]) + (", ..." if len(ggufs) > 5 else "")
        raise ModelSourceError(f"The directory {directory} holds {len(ggufs)} GGUF files ({names}); name the one to serve.")
    return ModelFiles("gguf", directory, ggufs[0], name) if ggufs else None


def _why_nothing(path: Path, load_format: LoadFormat) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return f"The model directory {path} is empty; it needs config.json and *.safetensors, or one .gguf file."
    wanted = {"safetensors": "config.json and *.safetensors", "gguf": "one .gguf file", "dummy": "config.json"}
    needs = wanted.get(load_format, "config.json and *.safetensors, or one .gguf file")
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith((".safetensors", ".gguf")) for name in names):
        return f"{path} has its weights only as {pickles[0]}: {pickle_refusal()}"
    if any(name.endswith(".safetensors") for name in names) and "config.json" not in names:
        return f"{path} has *.safetensors but no config.json; copy the model's config.json beside them."
    because = f" (for --load-format {load_format})" if load_format != "auto" else ""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"No model in {path}: it needs {needs}{because}, and holds {shown}."


def _is_path(name: str) -> bool:
    """Whether a name that does not exist here can only have been meant as a path: no Hub id looks like that."""
    return name.startswith(("/", "./", "../", "~", ".")) or name.endswith((".gguf", "/")) or "\\" in name or name.count("/") > 1


def _similar(path: Path) -> list[str]:
    """Entries of the deepest directory of `path` that exists whose names are like the next part's."""
    absolute = path.absolute()
    parent = next((folder for folder in absolute.parents if folder.is_dir()), None)
    if parent is None:
        return []
    wanted = absolute.relative_to(parent).parts[0]
    return [str(parent / match) for match in difflib.get_close_matches(wanted, _names(parent), n=3)]


def _nearest(path: Path) -> str:
    """The end of a sentence about a missing path: what is near it."""
    if similar := _similar(path):
        return f"; did you mean {' or '.join(similar)}"
    absolute = path.absolute()
    parent = next((folder for folder in absolute.parents if folder.is_dir()), Path("/"))
    folders = [folder.name for folder in _folders(parent)][:5]
    holds = f", which holds {', '.join(folders)}" if folders else ""
    return f"; the nearest directory that exists is {parent}{holds}"


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:  # not ours to read: then there is nothing to suggest
        return []


def _folders(directory: Path) -> list[Path]:
    return [directory / name for name in _names(directory) if not name.startswith(".") and (directory / name).is_dir()]
