"""Tokenizers that only transformers can read, converted to tokenizer.json once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.source.cache import keeping, require_own
from headway.server.text.gguf_stand_in import write_stand_in

# Counts up when what is kept changes its meaning.
_FORMAT = 1
_STAND_IN = "tokenizer.gguf"
_SOURCES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "*.tiktoken", "special_tokens_map.json", "added_tokens.json", "config.json")


def converted_tokenizer(source: Path, cache_dir: Path, on_progress: Callable[[str], None] | None = None) -> Path:
    """A directory with tokenizer.json for a .gguf file or a directory that has none. Raises ModelSourceError.

    Kept below `cache_dir` under the names, sizes and times of its sources. The first call imports transformers (3 s and more).
    """
    import importlib.metadata

    inputs = [source] if source.is_file() else sorted({path for pattern in _SOURCES for path in source.glob(pattern) if path.is_file()})
    facts = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in inputs]
    key = hashlib.sha256("\n".join([str(_FORMAT), importlib.metadata.version("transformers"), *facts]).encode()).hexdigest()[:32]
    target = cache_dir / "tokenizers" / key
    require_own(target.parent)
    if (target / "tokenizer.json").is_file():
        return target
    if on_progress:
        on_progress(f"converting the tokenizer of {source} (once)")
    with keeping("The converted tokenizer", target.parent):
        folder = Path(tempfile.mkdtemp(prefix="convert-", dir=target.parent))
        try:
            _convert(source, folder)
            _move_into_place(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return target


def _convert(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    where, arguments = source, {}
    try:
        if source.is_file():
            where, arguments = folder, {"gguf_file": _STAND_IN}
            write_stand_in(source, folder / _STAND_IN)
        tokenizer = AutoTokenizer.from_pretrained(str(where), local_files_only=True, trust_remote_code=False, **arguments)
    except ModelSourceError:
        raise
    except Exception as error:  # transformers raises many kinds for a tokenizer that it cannot read
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelSourceError(
            f"There is no tokenizer in {source} that can be read: {cause.rstrip('.')}; put a tokenizer.json beside the model or "
            f"name another tokenizer with --tokenizer."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelSourceError(
            f"The tokenizer in {source} ({type(tokenizer).__name__}) has no tokenizer.json form; name another one with --tokenizer."
        )
    tokenizer.save_pretrained(str(folder))
    (folder / _STAND_IN).unlink(missing_ok=True)


def _move_into_place(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)
    except OSError:
        # Another process was first: its result is as good as ours.
        if not (target / "tokenizer.json").is_file():
            raise
