"""Weights, looked at without reading them: what a file's header says against the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from headway.server.source.weights import weight_files, weight_map
from headway.server.words import first_few, plural


def safetensors_problems(directory: Path) -> Iterator[str]:
    """A sentence for each weight file that can't be read or is cut off, or does not hold what the index says. Files that are missing
    are not looked at. Raises ModelSourceError for an index that is none."""
    files = weight_files(directory)
    named = _named_by_index(directory)
    holders: dict[str, str] = {}
    for path in files:
        if not path.is_file():
            continue
        try:
            # The library holds the header's own length, and the places of all tensors, against the file's length.
            with safe_open(path, framework="np") as file:
                tensors = set(file.keys())
        except (OSError, SafetensorError) as error:
            yield f"The weight file {path} is damaged or cut off ({error}); copy or download it again."
            continue
        if absent := sorted(named.get(path.name, set()) - tensors):
            yield (
                f"The weight file {path} lacks {plural(len(absent), 'tensor')} that the index says it has, such as {absent[0]}; "
                "copy or download both again."
            )
        if doubles := sorted(tensors & set(holders)):
            yield (
                f"{first_few(doubles, 3)} of {directory} {'is' if len(doubles) == 1 else 'are'} in {path.name} and in "
                f"{holders[doubles[0]]}; remove the files that don't belong."
            )
        holders |= dict.fromkeys(tensors, path.name)


def _named_by_index(directory: Path) -> dict[str, set[str]]:
    """A weight file's name -> the tensors that it should have."""
    named: dict[str, set[str]] = {}
    for tensor, name in (weight_map(directory) or {}).items():
        named.setdefault(name, set()).add(tensor)
    return named
