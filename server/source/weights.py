"""Which weight files a model needs, what they may be packed in, and which kinds are never loaded."""

from __future__ import annotations

import json
from pathlib import Path

from headway.server.errors import ModelSourceError

INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Ends a sentence, but for the full stop.
PICKLE_REFUSAL = (
    "pickle files can run any code when they are loaded, so only safetensors and GGUF are accepted; "
    "convert them (`save_pretrained` of transformers writes safetensors)"
)
_MAX_INDEX_BYTES = 64 * 1024**2  # that of a model with 100,000 tensors has 10 MB
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def weight_map(directory: Path) -> dict[str, str] | None:
    """Each tensor's weight file, as the safetensors index of a directory has it; None without an index. Raises ModelSourceError."""
    index = directory / INDEX
    if not index.is_file():
        return None
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise ModelSourceError(f"{index} is no safetensors index: it is larger than {_MAX_INDEX_BYTES // 1024**2} MiB; copy it again.")
    try:
        found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # A path would lead out of the model's directory.
        odd = next((name for name in sorted(set(found.values())) if "/" in name or "\0" in name), None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelSourceError(f"{index} is not a safetensors index ({error}); copy or download it again.") from error
    if odd is not None:
        raise ModelSourceError(f"{index} is refused: it names {odd[:80]!r}, which is no file beside it; put all weight files there.")
    return found


def shards(directory: Path) -> list[str] | None:
    """Names of the weight files that the index lists; None without one. Raises ModelSourceError."""
    listed = weight_map(directory)
    return None if listed is None else sorted(set(listed.values()))


def weight_files(directory: Path) -> list[Path]:
    """The index's shards, else model.safetensors, else all there are (training leaves other *.safetensors beside an index)."""
    listed = shards(directory)
    if listed is not None:
        return [directory / name for name in listed]
    single = directory / "model.safetensors"
    files = [single] if single.is_file() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelSourceError(f"{directory} holds no *.safetensors; it needs model.safetensors, or shards and their index.")
    return files


def missing_shards(directory: Path) -> list[str]:
    """Those of `shards` that are not there."""
    return [name for name in shards(directory) or () if not (directory / name).is_file()]


def is_archive(name: str) -> bool:
    """Whether a file is one that a model is packed in."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)
