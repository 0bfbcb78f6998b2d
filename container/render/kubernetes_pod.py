"""The pod of `headway render kubernetes`: the container, its probes, what it may do and what is mounted."""

from __future__ import annotations

import math
from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.elsewhere import MODEL_PATH, SHARED_MEMORY_GIB, Container
from headway.server.words import GIB

# Not /run/secrets itself: /var/run is the same place, below which the cluster puts tokens of its own (EKS' IRSA).
SECRETS_PATH = "/etc/headway/secrets"
_USER = 10001  # any but root: the image needs no entry in /etc/passwd
_PROBE_PERIOD_S = 5
# Until every router of the cluster knows that the pod is going; what comes meanwhile is served.
_PRESTOP_S = 5
# A node keeps some for itself, and a request for all of it fits nowhere.
_SHARE_OF_NODE = 0.8


def pod_of(deployment: Deployment, container: Container, name: str) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _PRESTOP_S + container.stop_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(deployment, container)],
        "volumes": _volumes(container, name),
    }
    if deployment.instance:
        pod["nodeSelector"] = {"node.kubernetes.io/instance-type": deployment.instance.name.removeprefix("ml.")}
    if deployment.num_gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(deployment: Deployment, container: Container) -> dict[str, Any]:
    probe = _probe(deployment, container)
    return {
        "name": "headway",
        "image": deployment.image,
        "args": [_literal(word) for word in container.words],
        "env": [{"name": name, "value": _literal(value)} for name, value in container.environ.items()],
        "ports": [{"name": "http", "containerPort": container.port}],
        "resources": _resources(deployment),
        "startupProbe": {**probe, "failureThreshold": math.ceil(deployment.startup_timeout_s / _PROBE_PERIOD_S)},
        "readinessProbe": {**probe, "failureThreshold": 2},
        # The server itself waits before it calls a silent engine dead (--engine-progress-timeout-s); this is beyond doubt.
        "livenessProbe": {**probe, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_PRESTOP_S)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(container),
    }


def _probe(deployment: Deployment, container: Container) -> dict[str, Any]:
    tls = deployment.config.tls
    asked: dict[str, Any] = {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTPS" if tls.is_on else "HTTP"}}
    if tls.is_on and tls.client_certificates == "required":
        asked = {"exec": {"command": ["headway", "health"]}}  # the kubelet has no certificate to show
    return {**asked, "periodSeconds": _PROBE_PERIOD_S, "timeoutSeconds": 3}


def _resources(deployment: Deployment) -> dict[str, Any]:
    instance = deployment.instance
    wanted: dict[str, str] = {"cpu": "2", "memory": "4Gi"}
    if instance:
        wanted = {
            "cpu": str(max(1, int(instance.vcpus * _SHARE_OF_NODE))),
            "memory": f"{int(instance.memory_bytes * _SHARE_OF_NODE) // GIB}Gi",
        }
    gpus = {"nvidia.com/gpu": str(deployment.num_gpus)} if deployment.num_gpus else {}
    return {"requests": {**wanted, **gpus}, "limits": {"memory": wanted["memory"], **gpus}} if instance else {"requests": wanted}


def _volumes(container: Container, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB}Gi"}},
    ]
    if container.mounts_model:
        found.append({"name": "model", "persistentVolumeClaim": {"claimName": f"{name}-model", "readOnly": True}})
    if container.secrets:
        items = [{"key": secret, "path": secret} for secret in container.secrets]
        found.append({"name": "secrets", "secret": {"secretName": f"{name}-secrets", "defaultMode": 0o440, "items": items}})
    return found


def _mounts(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    if container.mounts_model:
        found.append({"name": "model", "mountPath": MODEL_PATH, "readOnly": True})
    if container.secrets:
        found.append({"name": "secrets", "mountPath": SECRETS_PATH, "readOnly": True})
    return found


def _literal(text: str) -> str:
    """``text`` as Kubernetes takes it, which puts variables in the place of $(NAME)."""
    return text.replace("$", "$$")
