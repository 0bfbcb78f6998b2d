"""A model that is not on this machine: its listing and its config.json, asked for within a few seconds."""

from __future__ import annotations

import queue
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from headway.container.check.model_look import ModelLook
from headway.server.config.server import ServerConfig
from headway.server.errors import ModelSourceError
from headway.server.source.choice import has_tokenizer, model_files
from headway.server.source.files import ModelFiles
from headway.server.source.hub import HubModel, HubUnreachable
from headway.server.source.s3 import chosen_objects
from headway.server.source.s3_bucket import S3Bucket, S3Location, S3Unreachable
from headway.server.source.weights import is_archive
from headway.server.words import plural

BUDGET_S = 8.0
_MAX_CONFIG_BYTES = 32 * 1024**2
# What says which model it is, and whether it pools.
_CONFIGS = ("config.json", "modules.json")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


class _TooLate(ModelSourceError):
    pass


def look_at_hub(look: ModelLook, source: HubModel, config: ServerConfig, budget_s: float = BUDGET_S) -> None:
    """Raises ModelSourceError for a model that can't be served; a Hub that can't be asked is a warning."""

    def ask(folder: Path) -> dict[str, int]:
        sizes = source.list_files(budget_s)
        where, one_gguf = f"The Hub repository {source.repo_id}", "download one of them and give its path"
        chosen = model_files(list(sizes), config.model.load_format, where, one_gguf)
        for name in _CONFIGS:
            if 0 < sizes.get(name, 0) <= _MAX_CONFIG_BYTES:
                source.fetch_file(name, folder)
        return {name: sizes[name] for name in chosen}

    look.place = "Hub"
    _look(look, ask, config, budget_s)


def look_at_s3(look: ModelLook, uri: str, config: ServerConfig, budget_s: float = BUDGET_S) -> None:
    """The same for a model on S3."""

    def ask(folder: Path) -> dict[str, int]:
        location = S3Location.of(uri)
        bucket = S3Bucket(location, 1, is_urgent=True)
        objects = chosen_objects(bucket.objects(), config.model.load_format, location)
        for item in objects:
            # A prefix may hold its model one folder down; the parent of that name has been judged.
            if item.name.rpartition("/")[2] in _CONFIGS and 0 < item.size <= _MAX_CONFIG_BYTES:
                (folder / item.name.rpartition("/")[2]).write_bytes(b"".join(bucket.read(item, 0, item.size)))
        return {item.name.rpartition("/")[2]: item.size for item in objects}

    look.place = "S3"
    _look(look, ask, config, budget_s)


def _look(look: ModelLook, ask: Callable[[Path], dict[str, int]], config: ServerConfig, budget_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="headway-check-", ignore_cleanup_errors=True) as folder:
        try:
            look.sizes = _within(budget_s, lambda: ask(Path(folder)))
        except (HubUnreachable, S3Unreachable, _TooLate) as error:
            look.warnings.append(f"{look.name} could not be looked at. {error}")
            return
        look.problems += _problems(look, config)
        if (Path(folder) / "config.json").is_file():
            files = ModelFiles("safetensors", Path(folder), None, look.name)
            look.keep_problems(lambda: look.read_shape(config, files))
        elif any(is_archive(name) or name.lower().endswith(".gguf") for name in look.sizes):
            look.not_checked.append(f"what is inside {next(iter(look.sizes))}: it is read once it is on a machine")
        else:
            look.problems.append(f"{look.name} has no config.json; put the model's config.json beside its weights")
    look.not_checked.append(f"the content of the weights and the tokenizer of {look.name}: they are on {look.place}, not on this machine")


def _problems(look: ModelLook, config: ServerConfig) -> list[str]:
    """What a listing tells."""
    found = []
    shards: dict[tuple[str, str], set[int]] = {}
    for match in filter(None, map(_SHARD.fullmatch, look.sizes)):
        shards.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (stem, total), numbers in shards.items():
        if len(numbers) < int(total):
            missing = next(number for number in range(1, int(total) + 1) if number not in numbers)
            found.append(
                f"{look.name} is incomplete: {plural(int(total) - len(numbers), 'weight file')} missing, such as "
                f"{stem}-{missing:05}-of-{total}.safetensors; upload all of them"
            )
    has_safetensors = any(name.endswith(".safetensors") for name in look.sizes)
    if has_safetensors and config.model.tokenizer is None and not has_tokenizer(look.sizes):
        found.append(f"{look.name} has no tokenizer; put tokenizer.json beside its weights, or name a tokenizer with --tokenizer")
    return found


def _within(budget_s: float, ask: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Raises what ``ask`` does, and _TooLate."""
    answers: queue.SimpleQueue[dict[str, int] | BaseException] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put(ask())
        except BaseException as error:  # the edge of a thread
            answers.put(error)

    # A daemon: a connection that hangs must not keep the command from ending.
    threading.Thread(target=answer, daemon=True).start()
    try:
        found = answers.get(timeout=budget_s)
    except queue.Empty:
        raise _TooLate(f"There was no answer within {budget_s:g} s; check the network, or leave this out with --offline.") from None
    if isinstance(found, BaseException):
        raise found
    return found
