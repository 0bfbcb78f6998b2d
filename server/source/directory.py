"""What a directory holds: a model, the archive of one, or neither and then why not. Only looks; a read-only directory is as good."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from headway.server.errors import ModelSourceError
from headway.server.source.files import ModelFiles
from headway.server.source.gguf_parts import first_part, gguf_models, incomplete
from headway.server.source.weights import PICKLE_REFUSAL, PICKLE_SUFFIXES, is_archive, missing_shards
from headway.server.words import first_few, plural

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]


def model_in(directory: Path, load_format: LoadFormat = "auto", name: str = "") -> ModelFiles | None:
    """The model right in a directory, or in the only folder of it that holds one; None where there is none.

    Raises ModelSourceError for a model that is incomplete, and where several could be meant.
    """
    try:
        found = _right_in(directory, load_format, name)
        if found is None:
            # An unpacked archive often has its one folder inside.
            inner = [files for folder in folders_of(directory) if (files := _right_in(folder, load_format, name))]
            if len(inner) > 1:
                # A GGUF's own name is no folder's.
                names = ", ".join((files.directory or files.path).name for files in inner)
                raise ModelSourceError(f"{directory} holds {len(inner)} models ({names}); name one of them.")
            found = inner[0] if inner else None
    except OSError as error:
        raise ModelSourceError(f"{directory} cannot be read: {error.strerror or error}; make it readable for this user.") from error
    return found


def archive_in(directory: Path) -> Path | None:
    """The one archive right in a directory; several are a ModelSourceError."""
    archives = [directory / name for name in names_in(directory) if is_archive(name) and (directory / name).is_file()]
    if len(archives) > 1:
        raise ModelSourceError(f"{directory} holds {_listed(archives, 'archive')}; name the one to serve.")
    return archives[0] if archives else None


def why_no_model(directory: Path, load_format: LoadFormat = "auto") -> str:
    """Why there is no model in a directory that can be read: the beginning of a sentence, or all but its full stop."""
    names = names_in(directory)
    wanted = {"safetensors": "config.json and *.safetensors", "gguf": "one .gguf file", "dummy": "config.json"}
    needs = "needs " + wanted.get(load_format, "config.json and *.safetensors, or one .gguf file")
    if load_format != "auto":
        needs += f" for --load-format {load_format}"
    if not names:
        return f"{directory} is empty ({needs})"
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith((".safetensors", ".gguf")) for name in names):
        return f"{directory} has its weights only as {pickles[0]}: {PICKLE_REFUSAL}"
    if any(name.endswith(".safetensors") for name in names) and "config.json" not in names:
        return f"{directory} has *.safetensors but no config.json; copy the model's config.json beside them"
    shown = first_few([f"{name}/" if (directory / name).is_dir() else name for name in names])
    return f"{directory} holds {shown} but no model ({needs})"


def folders_of(directory: Path) -> list[Path]:
    """The folders right in a directory that are not hidden; none where it can't be read."""
    return [directory / name for name in names_in(directory) if not name.startswith(".") and (directory / name).is_dir()]


def _right_in(directory: Path, load_format: LoadFormat, name: str) -> ModelFiles | None:
    entries = sorted(entry.name for entry in directory.iterdir())
    has_config = "config.json" in entries
    if load_format == "dummy":
        return ModelFiles("safetensors", directory, None, name) if has_config else None
    if load_format != "gguf" and has_config and any(entry.endswith(".safetensors") for entry in entries):
        missing = missing_shards(directory)
        if missing:
            raise ModelSourceError(incomplete(f"The model in {directory}", missing))
        return ModelFiles("safetensors", directory, None, name)
    ggufs = [directory / entry for entry in entries if entry.endswith(".gguf")] if load_format != "safetensors" else []
    if len(gguf_models(path.name for path in ggufs)) > 1:
        raise ModelSourceError(f"{directory} holds {_listed(ggufs, 'GGUF file')}; name the one to serve.")
    return ModelFiles("gguf", directory, first_part(ggufs[0]), name) if ggufs else None


def _listed(paths: list[Path], kind: str) -> str:
    return f"{plural(len(paths), kind)} ({first_few([path.name for path in paths])})"


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none where it can't be read."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:  # not ours to read: then there is nothing to tell of
        return []
