"""Arguments and settings to a Deployment; every problem at once."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace

from headway.container.instances import Instance, find_instance
from headway.container.limits import environment_problems
from headway.container.render.arguments import in_vain
from headway.container.render.deployment import Adapter, Deployment, Scale
from headway.container.render.environment import is_given, without_words
from headway.container.render.hosting import read_hosting
from headway.container.render.secrets import secret_problems, without_places
from headway.container.settings import Settings, read_settings
from headway.entrypoint.foreign import MODEL_DIRECTORY
from headway.server.config.data_parallel import gpus_missing
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.words import first_few

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", re.ASCII)
_ARTIFACT = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+\.tar\.gz")
_MODEL_DATA = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(\S+(/|\.tar\.gz|\.tgz))?")
_PROMETHEUS = re.compile(r"https?://[a-zA-Z0-9.\-\[\]:]+(/[\w./-]*)?", re.ASCII)
_TAG = re.compile(r"[\w .:/=+@-]{1,128}")
_MAX_NAME = 63
_MAX_TAG_VALUE = 256
_MAX_TAGS = 50
_KEY_IN_VAIN = (
    "an API key is set: SageMaker takes the Authorization header off every call, so that all of them would be answered 401; leave it out, "
    "IAM guards the endpoint"
)
_BUSY_SHARE = 0.7


def read_deployment(given: argparse.Namespace, environ: Mapping[str, str], *, on_sagemaker: bool) -> tuple[Deployment, tuple[str, ...]]:
    """(the deployment, warnings). ``on_sagemaker``: the target is one of SageMaker's. Raises ConfigError with every problem."""
    settings = read_settings(given, environ)
    if odd := _odd_variables(settings):
        raise ConfigError([f"environment {first_few(odd)}: must be UTF-8 text without NUL characters"])
    problems = _named_badly(given) + in_vain(given, on_sagemaker=on_sagemaker)
    adapters = _adapters(given, problems)
    tags = _tags(given.tag, problems)
    instance = _instance(given.instance, problems)
    problems += secret_problems(settings.environ, settings.words)
    own = dict(settings.environ)
    if adapters and not is_given("enable_lora", without_words(own, settings.words)):
        own["SM_VLLM_ENABLE_LORA"] = "true"
    named = without_words(own, settings.words) if on_sagemaker else own
    if on_sagemaker:
        problems += environment_problems(named)
    config, warnings = _resolved(replace(settings, environ=own), given, problems)
    scale = _scale(given, config, instance, problems)
    hosting = read_hosting(given, config, instance, scale, problems) if on_sagemaker else None
    problems += _missing_gpus(config, instance)
    if problems or config is None:
        raise ConfigError(problems)
    if on_sagemaker and (config.security.api_key_file or is_given("api_key", named)):
        warnings = (*warnings, _KEY_IN_VAIN)
    deployment = Deployment(
        name=given.name,
        image=given.image,
        environ=named,
        words=() if on_sagemaker else settings.words,
        config=config,
        model_directory=settings.model_directory,
        model_data=given.model_data,
        adapters=adapters,
        instance=instance,
        scale=scale,
        startup_timeout_s=given.startup_timeout,
        tags=tags,
        hosting=hosting,
        prometheus=given.prometheus,
    )
    return deployment, warnings


def _named_badly(given: argparse.Namespace) -> list[str]:
    found = []
    if not _NAME.fullmatch(given.name):
        found.append(f"--name must be at most 63 letters, digits and hyphens, got {given.name!r}")
    if given.model_data is not None and not _MODEL_DATA.fullmatch(given.model_data):
        found.append(f"--model-data must be s3://BUCKET/PREFIX/ with a slash at its end, or a .tar.gz, got {given.model_data!r}")
    if given.prometheus is not None and not _PROMETHEUS.fullmatch(given.prometheus):
        found.append(f"--prometheus must be http(s)://HOST[:PORT][/PATH] without a password, got {given.prometheus.rpartition('@')[2]!r}")
    return found


def _odd_variables(settings: Settings) -> list[str]:
    """Variables whose values no file of text can hold."""
    return [name for name, text in settings.environ.items() if "\0" in text or not _is_utf8(text)]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _adapters(given: argparse.Namespace, problems: list[str]) -> tuple[Adapter, ...]:
    found: list[Adapter] = []
    for text in given.adapter:
        name, _, artifact = text.partition("=")
        if not (_NAME.fullmatch(name) and _ARTIFACT.fullmatch(artifact)):
            problems.append(f"--adapter must be NAME=s3://BUCKET/KEY.tar.gz with a name of letters, digits and hyphens, got {text!r}")
        elif len(name) + len(given.name) >= _MAX_NAME:
            problems.append(f"--adapter {name}: together with --name {given.name} its name is longer than {_MAX_NAME} characters")
        elif name in [adapter.name for adapter in found]:
            problems.append(f"--adapter: {name} is named twice")
        else:
            found.append(Adapter(name, artifact))
    return tuple(found)


def _tags(texts: list[str], problems: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not _TAG.fullmatch(key) or len(value) > _MAX_TAG_VALUE or (value and not _TAG.fullmatch(value[:128])):
            problems.append(f"--tag must be KEY=VALUE of letters, digits, blanks and _.:/=+@-, got {text!r}")
        elif key.lower().startswith("aws:"):
            problems.append(f"--tag: keys that begin with aws: are AWS' own, got {text!r}")
        found[key] = value
    if len(found) > _MAX_TAGS:
        problems.append(f"--tag: SageMaker takes {_MAX_TAGS} tags, got {len(found)}")
    return found


def _instance(name: str | None, problems: list[str]) -> Instance | None:
    try:
        return find_instance(name) if name is not None else None
    except ConfigError as error:
        problems += error.problems
        return None


def _resolved(settings: Settings, given: argparse.Namespace, problems: list[str]) -> tuple[ServerConfig | None, tuple[str, ...]]:
    """The effective options and warnings, without what stands elsewhere; None, and sentences in ``problems``, if there are none."""
    named = without_places(settings.environ)
    if given.model_data and settings.model_directory is None and not is_given("model", named):
        named["SM_VLLM_MODEL"] = str(MODEL_DIRECTORY)  # what SageMaker fetches goes there, and before HF_MODEL_ID
    try:
        resolved = replace(settings, environ=named).resolve()
    except ConfigError as error:
        problems += error.problems
        return None, ()
    return resolved.config, resolved.warnings


def _missing_gpus(config: ServerConfig | None, instance: Instance | None) -> list[str]:
    if config is None or config.model.device == "cpu" or instance is None or instance.gpu is None:
        return []
    num_engines = config.data_parallel.data_parallel_size
    if num_engines * config.parallel.num_ranks <= instance.num_gpus:
        return []
    return [gpus_missing(num_engines, config.parallel, f"{instance.name} has {instance.num_gpus}")]


def _scale(given: argparse.Namespace, config: ServerConfig | None, instance: Instance | None, problems: list[str]) -> Scale:
    maximum = given.max_copies or given.min_copies
    if maximum < given.min_copies:
        problems.append(f"--max-copies ({maximum}) must be at least --min-copies ({given.min_copies})")
    rows = (config and config.scheduler.max_num_seqs) or (256 if instance and instance.num_gpus else 64)
    if config is not None:
        rows *= config.data_parallel.data_parallel_size
    return Scale(given.min_copies, maximum, given.concurrency or max(1, int(rows * _BUSY_SHARE)), rows)
