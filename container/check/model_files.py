"""Finds the model that would be served: on this machine, on the Hub or on S3."""

from __future__ import annotations

from pathlib import Path

from headway.container.check.model_content import look_at_files
from headway.container.check.model_look import ModelLook
from headway.container.check.remote import look_at_hub, look_at_s3
from headway.container.settings import Settings
from headway.server.config.server import ServerConfig
from headway.server.config.values import parse_bool
from headway.server.errors import ModelSourceError
from headway.server.source.cache import cache_directory
from headway.server.source.demo import DEMO_NAME, kept_demo_model
from headway.server.source.directory import archive_in, model_in, why_no_model
from headway.server.source.files import ModelFiles
from headway.server.source.hub import HubModel
from headway.server.source.resolve import gguf_file, local_path
from headway.server.source.s3_bucket import SCHEME
from headway.server.source.weights import is_archive

_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def look_at_model(config: ServerConfig, settings: Settings, *, is_offline: bool = False) -> ModelLook:
    """Reads headers and small files only. With ``is_offline`` neither the Hub nor S3 is asked. Faults of the model are in the result."""
    look = ModelLook(config.model.model or "")
    if config.model.model is not None:
        look.keep_problems(lambda: _look(look, config, settings, is_offline))
    return look


def _look(look: ModelLook, config: ServerConfig, settings: Settings, is_offline: bool) -> None:
    name = settings.name_here(look.name)
    environ = {**settings.machine, **settings.environ}
    if name == DEMO_NAME:
        if kept := kept_demo_model(cache_directory(settings.machine)):
            look.place = "this machine"
            return look_at_files(look, ModelFiles("gguf", None, kept, name), config)
        return look.not_checked.append("the demo model is fetched when the server starts, and not on this machine yet")
    if name.startswith(SCHEME):
        if is_offline:
            return look.not_checked.append(f"{name} was not looked at, as --offline asks")
        return look_at_s3(look, name, config)
    if path := local_path(name):
        look.place = "this machine"
        return _look_at_path(look, path.resolve(), config)
    source = HubModel(
        name, config.model.revision, config.model.hf_token, None, environ.get("HF_ENDPOINT"), tuple(config.model.ignore_patterns)
    )
    if kept := source.kept(config.model.load_format):
        look.place = "Hub cache"
        return _look_at_path(look, kept, config)
    if forbids := next((name for name in _OFFLINE_VARIABLES if parse_bool(settings.environ.get(name, ""))), None):
        look.warnings.append(
            f"{name} is not on this machine, and {forbids} forbids the container to download it: leave the variable out, or put the model "
            "where the container finds it"
        )
    if is_offline or any(parse_bool(environ.get(name, "")) for name in _OFFLINE_VARIABLES):
        return look.not_checked.append(f"{name} was not looked for on the Hub, as --offline or HF_HUB_OFFLINE asks")
    return look_at_hub(look, source, config)


def _look_at_path(look: ModelLook, path: Path, config: ServerConfig) -> None:
    load_format = config.model.load_format
    if path.is_file():
        if is_archive(path.name):
            return _skip_archive(look, path)
        return look_at_files(look, gguf_file(path, load_format, look.name), config)
    try:
        found = model_in(path, load_format, look.name)
    except ModelSourceError:
        # The rest of an incomplete model is worth a look all the same.
        if (path / "config.json").is_file():
            look.keep_problems(lambda: look_at_files(look, ModelFiles("safetensors", path, None, look.name), config))
        raise
    if found:
        return look_at_files(look, found, config)
    if archive := archive_in(path):
        return _skip_archive(look, archive)
    raise ModelSourceError(f"{why_no_model(path, load_format)}.")


def _skip_archive(look: ModelLook, archive: Path) -> None:
    look.not_checked.append(f"{archive} is unpacked when the server starts; to have its model checked, unpack it and name the directory")
