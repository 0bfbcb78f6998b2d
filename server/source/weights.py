"""Which weight files a model needs, what they may be packed in, and which kinds are never loaded."""

from __future__ import annotations

import json
from pathlib import Path

from headway.server.errors import ModelSourceError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Ends a sentence, but for the full stop.
PICKLE_REFUSAL = (
    "pickle files can run any code when they are loaded, so only safetensors and GGUF are accepted; "
    "convert them (`save_pretrained` of transformers writes safetensors)"
)
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def shards(directory: Path) -> list[str] | None:
    """Names of the weight files that the safetensors index of a directory lists; None without an index. Raises ModelSourceError."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return None
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A path would lead out of the model's directory.
        odd = next((name for name in names if "/" in name or "\0" in name), None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelSourceError(f"{index} is not a safetensors index ({error}); copy or download it again.") from error
    if odd is not None:
        raise ModelSourceError(f"{index} is refused: it names {odd[:80]!r}, which is no file beside it; put all weight files there.")
    return names


def missing_shards(directory: Path) -> list[str]:
    """Those of `shards` that are not there."""
    return [name for name in shards(directory) or () if not (directory / name).is_file()]


def is_archive(name: str) -> bool:
    """Whether a file is one that a model is packed in."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)
