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


def missing_shards(directory: Path) -> list[str]:
    """Names of weight files that the safetensors index of a directory lists and that are not there."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelSourceError(f"{index} is not a safetensors index ({error}); copy or download it again.") from error
    return [shard for shard in shards if not (directory / shard).is_file()]


def is_archive(name: str) -> bool:
    """Whether a file is one that a model is packed in."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)
