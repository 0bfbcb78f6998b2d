"""`headway render compose`: a compose.yaml for one machine."""

from __future__ import annotations

from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.elsewhere import MODEL_PATH, SHARED_MEMORY_GIB, Container, container_of, secrets_comment
from headway.container.render.yaml_text import document

_CACHE = "headway-cache"


def render(deployment: Deployment) -> str:
    """Raises ConfigError for what only SageMaker does."""
    container = container_of(deployment)
    service = _service(deployment, container)
    content: dict[str, Any] = {"name": deployment.name.lower(), "services": {"headway": service}, "volumes": {_CACHE: {}}}
    if container.secrets:
        content["secrets"] = {name: {"file": f"./secrets/{name}"} for name in container.secrets}
    comment = f"docker compose up, then http://localhost:{container.port}. A $ of a value is written $$."
    comment += secrets_comment(container, "files of those names in ./secrets, which all may read (chmod 644) below a closed directory.")
    if deployment.scale.is_automatic:
        comment += f"\nCompose does not scale by load: {deployment.scale.minimum} of the copies run."
    return document(content, comment)


def _service(deployment: Deployment, container: Container) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": _literal(deployment.image),
        "command": [_literal(word) for word in container.words],
        "environment": {name: _literal(value) for name, value in container.environ.items()},
        "ports": [_ports(container.port, deployment.scale.minimum)],
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": _volumes(deployment, container),
        "healthcheck": {
            "test": ["CMD", "headway", "health"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{deployment.startup_timeout_s}s",
        },
        "stop_grace_period": f"{container.stop_s}s",
        "restart": "on-failure",
    }
    if deployment.num_gpus > 1:
        service["shm_size"] = f"{SHARED_MEMORY_GIB}gb"
    if container.secrets:
        service["secrets"] = container.secrets
    if deployment.tags:
        service["labels"] = dict(deployment.tags)
    if deploy := _deploy(deployment):
        service["deploy"] = deploy
    return service


def _deploy(deployment: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if deployment.scale.minimum > 1:
        found["replicas"] = deployment.scale.minimum
    if deployment.num_gpus:
        device = {"driver": "nvidia", "count": deployment.num_gpus, "capabilities": ["gpu"]}
        found["resources"] = {"reservations": {"devices": [device]}}
    return found


def _ports(port: int, num_copies: int) -> str:
    """This machine's own only; copies take the next ones."""
    ours = f"{port}" if num_copies == 1 else f"{port}-{port + num_copies - 1}"
    return f"127.0.0.1:{ours}:{port}"


def _volumes(deployment: Deployment, container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "volume", "source": _CACHE, "target": "/tmp/headway"}]
    if container.mounts_model and deployment.model_directory is not None:
        source = _literal(str(deployment.model_directory.absolute()))
        found.append({"type": "bind", "source": source, "target": MODEL_PATH, "read_only": True})
    return found


def _literal(text: str) -> str:
    """``text`` as compose takes it, which puts variables in the place of $NAME."""
    return text.replace("$", "$$")
