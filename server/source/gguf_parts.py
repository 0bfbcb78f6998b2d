"""GGUF files that are parts of one model, as llama.cpp's gguf-split names them: NAME-00001-of-00003.gguf and so on.

The first has the metadata, each has some tensors. The largest models (DeepSeek-V3, gpt-oss-120b) are published so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.words import plural

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(name: str) -> list[str]:
    """All files of the model that the file ``name`` is of, in order; the file alone where its name says nothing of parts."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def gguf_models(names: Iterable[str]) -> list[str]:
    """The models that the names of GGUF files are of: the first name of each. Its parts, which may be said to be many, are not listed."""
    one_each: dict[tuple[str, str], str] = {}
    for name in names:
        match = _PART.fullmatch(name)
        one_each.setdefault((name, "") if match is None else (match[1], match[3]), name)
    return list(one_each.values())


def first_part(path: Path) -> Path:
    """Of the model that the file is of. Raises ModelSourceError where a part is missing."""
    paths = [path.with_name(name) for name in parts_of(path.name)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise ModelSourceError(incomplete(f"The model in {path.parent}", missing))
    return paths[0]


def incomplete(what: str, missing: list[str]) -> str:
    return f"{what} is incomplete: {plural(len(missing), 'weight file')} missing, such as {missing[0]}; copy all of them."
