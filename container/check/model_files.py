"""Finds the model that would be served: on this machine, on the Hub or on S3."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
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
from headway.server.source.directory import archive_in, model_in, names_in, why_no_model
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
    elif names_in(settings.place_here):
        # Why no model was found there is told with the options; what is there is worth a look all the same.
        with contextlib.suppress(ModelSourceError):
            look.place = "this machine"
            _look_at_path(look, settings.place_here, config)
    if (draft := config.speculative.speculative_config.get("model")) and config.speculative.asks_for_draft_model:
        look.not_checked.append(f"the draft model {draft} was not looked at; its weights and its part of the KV cache need memory too")
    return look


def _look(look: ModelLook, config: ServerConfig, settings: Settings, is_offline: bool) -> None:
    name = settings.name_here(look.name)
    if name == DEMO_NAME:
        _look_at_demo(look, config, settings)
    elif name.startswith(SCHEME):
        if is_offline:
            look.not_checked.append(f"{name} was not looked at, as --offline asks")
        else:
            look_at_s3(look, name, config)
    elif path := local_path(name):
        look.place = "this machine"
        _look_at_path(look, path.parent.resolve() / path.name if path.is_file() else path.resolve(), config)
    else:
        _look_for_hub_model(look, config, settings, is_offline)


def _look_at_demo(look: ModelLook, config: ServerConfig, settings: Settings) -> None:
    if kept := kept_demo_model(cache_directory(settings.machine)):
        look.place = "this machine"
        look_at_files(look, ModelFiles("gguf", None, kept, look.name), config)
    else:
        look.not_checked.append("the demo model is fetched when the server starts, and not on this machine yet")


def _look_for_hub_model(look: ModelLook, config: ServerConfig, settings: Settings, is_offline: bool) -> None:
    environ = {**settings.machine, **settings.environ}
    model = config.model
    # Without --download-dir: it is the container's.
    source = HubModel(
        look.name, model.revision, model.hf_token, endpoint=environ.get("HF_ENDPOINT") or None, ignore_patterns=tuple(model.ignore_patterns)
    )
    if kept := source.kept(model.load_format):
        look.place = "Hub cache"
        _look_at_path(look, kept, config)
        return
    if forbids := _forbids_the_hub(settings.environ):
        look.warnings.append(
            f"{look.name} is not on this machine, and {forbids} forbids the container to download it: leave the variable out, or put the "
            "model where the container finds it"
        )
    if is_offline or _forbids_the_hub(environ):
        look.not_checked.append(f"{look.name} was not looked for on the Hub, as {_forbids_the_hub(environ) or '--offline'} asks")
    else:
        look_at_hub(look, source, config)


def _forbids_the_hub(environ: Mapping[str, str]) -> str | None:
    return next((name for name in _OFFLINE_VARIABLES if parse_bool(environ.get(name, ""))), None)


def _look_at_path(look: ModelLook, path: Path, config: ServerConfig) -> None:
    if path.is_file():
        archive = path if is_archive(path.name) else None
        found = None if archive else gguf_file(path, config.model.load_format, look.name)
    else:
        found = _model_in(look, path, config)
        archive = archive_in(path) if found is None else None
    if found:
        look_at_files(look, found, config)
    elif archive:
        look.not_checked.append(
            f"{archive} is unpacked when the server starts; to have its model checked, unpack it and name the directory"
        )
    else:
        raise ModelSourceError(f"{why_no_model(path, config.model.load_format)}.")


def _model_in(look: ModelLook, path: Path, config: ServerConfig) -> ModelFiles | None:
    try:
        return model_in(path, config.model.load_format, look.name)
    except ModelSourceError:
        # The rest of an incomplete model is worth a look all the same.
        if (path / "config.json").is_file():
            look.keep_problems(lambda: look_at_files(look, ModelFiles("safetensors", path, None, look.name), config))
        raise
