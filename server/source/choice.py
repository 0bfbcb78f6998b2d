"""Which of the files that a repository or a bucket holds are needed to serve the model: never pickles, and code where it is trusted."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from headway.server.errors import ModelSourceError
from headway.server.source.gguf_parts import gguf_models, incomplete, parts_of
from headway.server.source.weights import PICKLE_REFUSAL, PICKLE_SUFFIXES, is_archive
from headway.server.words import first_few, plural

# Everything about a model but its weights. Never *.bin, *.pt, *.py.
_TEXT_FILES = ("*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt", "chat_templates/*.jinja")
# Any of these is a tokenizer; all but the first are converted when the server starts (text/conversion.py).
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json", "vocab.txt")
# What sentence-transformers keeps in folders beside the model.
_MODULES = ("*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors")


def text_files(names: Iterable[str]) -> list[str]:
    """Configuration, tokenizer and templates among the names of a model's files, which are relative to its directory."""
    return [name for name in names if _matches(name, _TEXT_FILES)]


def code_files(names: Iterable[str]) -> list[str]:
    """Python modules beside the model, which config.json may name."""
    return [name for name in names if _matches(name, ("*.py",))]


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether a tokenizer is among such names, in whichever form."""
    return any(_matches(name, _TOKENIZERS) for name in names)


def model_files(names: Sequence[str], load_format: str, where: str, one_gguf: str) -> list[str]:
    """The text files and the weights of one format. Raises ModelSourceError where there are no weights that can be served.

    `where` begins its sentence; `one_gguf` says how to choose among several GGUF files.
    """
    chosen = [*text_files(names), *(name for name in names if _matches(name, _MODULES))]
    if load_format == "dummy":
        return chosen
    if load_format != "gguf" and (safetensors := _safetensors(names)):
        return chosen + safetensors
    ggufs = [name for name in names if name.endswith(".gguf")]
    models = gguf_models(ggufs)
    if len(models) == 1 and "/" not in ggufs[0] and load_format != "safetensors":
        parts, there = parts_of(models[0]), set(ggufs)
        if missing := [name for name in parts if name not in there]:
            raise ModelSourceError(incomplete(where, missing))
        return chosen + parts
    raise ModelSourceError(_no_weights(names, ggufs, load_format, where, one_gguf))


def model_files_below(names: Sequence[str], load_format: str, where: str, one_gguf: str) -> list[str]:
    """Like `model_files`; where there is no model at the top, that of the only folder which holds one, else an only archive."""
    if _has_model(names, load_format):
        return model_files(names, load_format, where, one_gguf)
    folders = {folder: _within(folder, names) for folder in sorted({name.partition("/")[0] for name in names if "/" in name})}
    models = [folder for folder, inner in folders.items() if _has_model(inner, load_format)]
    if len(models) > 1:
        raise ModelSourceError(f"{where} holds {len(models)} models ({', '.join(models)}); name one of them.")
    if models:
        folder = models[0]
        return [f"{folder}/{name}" for name in model_files(folders[folder], load_format, f"{where} in {folder}/", one_gguf)]
    archives = [name for name in names if is_archive(name) and "/" not in name]
    return archives if len(archives) == 1 else model_files(names, load_format, where, one_gguf)


def _has_model(names: Sequence[str], load_format: str) -> bool:
    if load_format == "dummy":
        return "config.json" in names
    has_safetensors = load_format != "gguf" and bool(_safetensors(names))
    return has_safetensors or (load_format != "safetensors" and any(name.endswith(".gguf") and "/" not in name for name in names))


def _safetensors(names: Sequence[str]) -> list[str]:
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    # Some repositories hold the same weights twice, under the author's own names too.
    return [name for name in found if not name.startswith("consolidated")] or found


def _within(folder: str, names: Sequence[str]) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]


def _no_weights(names: Sequence[str], ggufs: list[str], load_format: str, where: str, one_gguf: str) -> str:
    if ggufs and load_format != "safetensors":
        return f"{where} holds {plural(len(ggufs), 'GGUF file')} ({first_few(ggufs)}); {one_gguf}."
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return f"{where} has its weights only as {pickles[0]}: {PICKLE_REFUSAL}."
    because = f" (--load-format {load_format})" if load_format != "auto" else ""
    return f"{where} has no weights that can be served{because}: it needs *.safetensors with config.json, or one .gguf file."


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Like a shell: `*` stays within a folder."""
    return any(name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern) for pattern in patterns)
