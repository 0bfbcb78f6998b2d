"""What a container needs wherever it is no SageMaker that runs it: the same for compose and Kubernetes. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headway.container.render.deployment import Deployment
from headway.container.render.environment import is_given
from headway.server.config.command_line import read_command_line
from headway.server.config.sources import all_names
from headway.server.errors import ConfigError
from headway.server.words import first_few

MODEL_PATH = "/opt/ml/model"
SHARED_MEMORY_GIB = 1
# A drain is followed by the end of the engine and of the streams that were cut: docs/operations.md.
_SECONDS_AFTER_DRAIN = 5
_SECRETS_PATH = "/run/secrets"
_SECRET_FILE = re.compile(rf"((?:--[a-z-]+=)?(?:file://)?){_SECRETS_PATH}/([a-zA-Z0-9][a-zA-Z0-9._-]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Container:
    """``words`` are never none. ``secrets``: names of files below /run/secrets that the settings name. ``mounts_model``: a directory
    goes to /opt/ml/model. ``stop_s``: from SIGTERM until the last answer is out."""

    environ: dict[str, str]
    words: list[str]
    secrets: list[str]
    mounts_model: bool
    port: int
    stop_s: int


def container_of(deployment: Deployment, secrets_path: str = _SECRETS_PATH) -> Container:
    """``secrets_path``: where files are put that the settings have below /run/secrets.

    Raises ConfigError for what only SageMaker does, and for what nobody outside could reach.
    """
    problems = []
    if deployment.adapters:
        problems.append("--adapter: only SageMaker fetches adapters for a container; mount them, and name them in SM_VLLM_LORA_MODULES")
    if deployment.config.network.uds is not None:
        problems.append("--uds: nothing outside of the container reaches a Unix socket; leave it out, and it listens on a port")
    if problems:
        raise ConfigError(problems)
    environ = dict(deployment.environ)
    if deployment.model_data and not _names_model(deployment):
        environ["SM_VLLM_MODEL"] = deployment.model_data
    named = {match[2] for text in (*environ.values(), *deployment.words) if (match := _SECRET_FILE.fullmatch(text))}
    return Container(
        environ={name: _moved(text, secrets_path) for name, text in environ.items()},
        words=[_moved(word, secrets_path) for word in deployment.words] or ["serve"],
        secrets=sorted(named),
        mounts_model=deployment.model_directory is not None and not deployment.model_data,
        port=deployment.config.network.port,
        stop_s=deployment.config.network.shutdown_timeout + _SECONDS_AFTER_DRAIN,
    )


def _moved(text: str, secrets_path: str) -> str:
    match = _SECRET_FILE.fullmatch(text)
    return f"{match[1]}{secrets_path}/{match[2]}" if match else text


def _names_model(deployment: Deployment) -> bool:
    words = deployment.words[deployment.words[:1] == ("serve",) :]
    said = read_command_line(words, all_names()).given
    return is_given("model", deployment.environ) or any(given.setting.name == "model" for given in said)


def secrets_comment(container: Container, how: str) -> str:
    """A line for the head of the text, empty where there are no secrets."""
    return f"\nSecrets ({first_few(container.secrets)}): {how}" if container.secrets else ""
