"""The small files of a model: their sizes before anybody reads them, its tokenizer and its chat templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic_core import from_json

from headway.server.errors import ConfigError, ModelSourceError
from headway.server.source.choice import has_tokenizer, text_files
from headway.server.source.directory import names_in
from headway.server.source.weights import INDEX
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.model_json import read_json
from headway.server.text.tokenizer import chat_templates_in

_MIB = 1024**2
# The largest that are known: a tokenizer.json of 35 MB, a chat template of 20 kB.
_MAX_BYTES = {"tokenizer.json": 256 * _MIB, "tokenizer.model": 256 * _MIB}
_MAX_OTHER_BYTES = 32 * _MIB


def unreadable_texts(directory: Path) -> list[str]:
    """A sentence for each file that must not be opened: it is no file, or larger than any such file is."""
    found = []
    names = [*names_in(directory), *(f"chat_templates/{name}" for name in names_in(directory / "chat_templates"))]
    for name in text_files(name for name in names if name != INDEX):  # that one source.weights reads, and limits
        path, limit = directory / name, _MAX_BYTES.get(name, _MAX_OTHER_BYTES)
        if not path.is_file():
            found.append(f"{path} is no regular file, or can't be opened by this user; copy or download it again.")
        elif path.stat().st_size > limit:
            found.append(f"{path} is larger than {limit // _MIB} MiB, which no such file is; copy or download it again.")
    return found


def tokenizer_problems(directory: Path) -> Iterator[str]:
    path = directory / "tokenizer.json"
    if not path.is_file():
        if not needs_conversion(directory):
            yield f"{directory} has no tokenizer; copy tokenizer.json beside the weights, or name a tokenizer with --tokenizer."
        return
    try:
        content = from_json(path.read_bytes())
        if not (isinstance(content, dict) and isinstance(content.get("model"), dict)):
            yield f"The tokenizer {path} has no `model` and is none; copy or download it again."
    except (OSError, ValueError) as error:
        yield f"The tokenizer {path} cannot be read: {error}; copy or download it again."
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        try:
            read_json(directory / name)
        except ModelSourceError as error:
            yield str(error)


def needs_conversion(directory: Path) -> bool:
    """Whether there is a tokenizer, in a form that only transformers reads."""
    names = [name for name in names_in(directory) if (directory / name).is_file()]
    return "tokenizer.json" not in names and has_tokenizer(names)


def templates_of(directory: Path) -> dict[str, str]:
    """Raises ModelSourceError."""
    try:
        found = chat_templates_in(directory, read_json(directory / "tokenizer_config.json"))
        if not all(isinstance(text, str) for pair in found.items() for text in pair):
            raise TypeError
        return found
    except (KeyError, TypeError) as error:
        raise ModelSourceError(
            f"The chat templates in {directory}/tokenizer_config.json have no name or text; copy or download it again."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelSourceError(f"A chat template in {directory} cannot be read: {error}; copy or download it again.") from error


def template_problems(sources: dict[str, str], where: str) -> list[str]:
    """Compiled one by one in the sandbox that the server has, and not run."""
    found = []
    for name, source in sources.items():
        try:
            ChatTemplate({name: source}, {})
        except ConfigError as error:
            found += [f"{where}, template {name}: {problem}" for problem in error.problems]
        # Python's compiler has limits of its own.
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            found.append(f"{where}, template {name}: it can't be compiled ({type(error).__name__}); correct --chat-template")
    return found
