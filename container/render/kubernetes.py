"""`headway render kubernetes`: a Deployment and what belongs to it, for kubectl apply."""

from __future__ import annotations

import json
from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.elsewhere import MODEL_PATH, Container, container_of, secrets_comment
from headway.container.render.kubernetes_pod import SECRETS_PATH, pod_of
from headway.container.render.yaml_text import document
from headway.server.errors import ConfigError

# The sum of what runs and what waits: the metric that the Prometheus adapter is told to make, and the series that it is made of.
_OPEN = "headway_open_requests"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_ADAPTER_RULE = f"""\
The number of copies follows {_OPEN}, which the Prometheus adapter makes of our metrics by this rule
(values.yaml of its Helm chart, rules.custom):
  - seriesQuery: '{_RUNNING}{{namespace!="",pod!=""}}'
    resources: {{overrides: {{namespace: {{resource: namespace}}, pod: {{resource: pod}}}}}}
    name: {{as: {_OPEN}}}
    metricsQuery: sum({{__name__=~"{_RUNNING}|{_WAITING}",<<.LabelMatchers>>}}) by (<<.GroupBy>>)"""


def render(deployment: Deployment) -> str:
    """Raises ConfigError for what only SageMaker does, and for a name that no Service can have."""
    name = deployment.name.lower()
    if not name[0].isalpha():
        raise ConfigError([f"--name {deployment.name}: a Service's name begins with a letter"])
    container = container_of(deployment, SECRETS_PATH)
    parts = [
        document(_kind("v1", "ServiceAccount", name, deployment) | {"automountServiceAccountToken": False}, _head(name, container)),
        document(_workload(deployment, container, name)),
        document(_service(deployment, name)),
        document(_disruption_budget(deployment, name)),
        document(_network_policy(deployment, name), "Reached from inside of the cluster only; name your gateway's namespace to narrow it."),
    ]
    if deployment.scale.is_automatic:
        parts.append(_scaler(deployment, name))
    return "---\n".join(parts)


def _head(name: str, container: Container) -> str:
    head = f"kubectl apply -f FILE, then http://{name} in its namespace."
    how = f"kubectl create secret generic {name}-secrets " + " ".join(f"--from-file={secret}" for secret in container.secrets)
    head += secrets_comment(container, how)
    if container.mounts_model:
        head += f"\nThe model: a PersistentVolumeClaim {name}-model with the files that go to {MODEL_PATH}."
    return head


def _kind(version: str, kind: str, name: str, deployment: Deployment) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": _labels(name)}
    if deployment.tags:
        metadata["annotations"] = {"headway/tags": json.dumps(dict(deployment.tags))}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "headway", "app.kubernetes.io/instance": name}


def _workload(deployment: Deployment, container: Container, name: str) -> dict[str, Any]:
    scheme = "https" if deployment.config.tls.is_on else "http"
    scraped = {"scrape": "true", "port": str(container.port), "path": "/metrics", "scheme": scheme}
    spec: dict[str, Any] = {} if deployment.scale.is_automatic else {"replicas": deployment.scale.minimum}
    spec |= {
        "selector": {"matchLabels": _labels(name)},
        # A new copy is ready before an old one goes, which takes room (a GPU) for one more.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "progressDeadlineSeconds": deployment.startup_timeout_s + 600,
        "template": {
            "metadata": {
                "labels": _labels(name),
                "annotations": {f"prometheus.io/{key}": value for key, value in scraped.items()},
            },
            "spec": pod_of(deployment, container, name),
        },
    }
    return _kind("apps/v1", "Deployment", name, deployment) | {"spec": spec}


def _service(deployment: Deployment, name: str) -> dict[str, Any]:
    port = {"name": "http", "port": 443 if deployment.config.tls.is_on else 80, "targetPort": "http"}
    return _kind("v1", "Service", name, deployment) | {"spec": {"selector": _labels(name), "ports": [port]}}


def _disruption_budget(deployment: Deployment, name: str) -> dict[str, Any]:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(name)}}
    return _kind("policy/v1", "PodDisruptionBudget", name, deployment) | {"spec": spec}


def _network_policy(deployment: Deployment, name: str) -> dict[str, Any]:
    rule = {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": "http"}]}
    spec = {"podSelector": {"matchLabels": _labels(name)}, "policyTypes": ["Ingress"], "ingress": [rule]}
    return _kind("networking.k8s.io/v1", "NetworkPolicy", name, deployment) | {"spec": spec}


def _scaler(deployment: Deployment, name: str) -> str:
    if deployment.prometheus:
        return document(_scaled_object(deployment, name, deployment.prometheus), "Needs KEDA (keda.sh).")
    return document(_horizontal_autoscaler(deployment, name), _ADAPTER_RULE)


def _horizontal_autoscaler(deployment: Deployment, name: str) -> dict[str, Any]:
    target = {"type": "AverageValue", "averageValue": f"{deployment.scale.concurrency:g}"}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": deployment.scale.minimum,
        "maxReplicas": deployment.scale.maximum,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": _OPEN}, "target": target}}],
        "behavior": _behavior(),
    }
    return _kind("autoscaling/v2", "HorizontalPodAutoscaler", name, deployment) | {"spec": spec}


def _scaled_object(deployment: Deployment, name: str, prometheus: str) -> dict[str, Any]:
    query = f'sum({{__name__=~"{_RUNNING}|{_WAITING}",pod=~"{name}-[a-z0-9]+-[a-z0-9]+"}})'
    asked = {"serverAddress": prometheus, "query": query, "threshold": f"{deployment.scale.concurrency:g}"}
    spec = {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": deployment.scale.minimum,
        "maxReplicaCount": deployment.scale.maximum,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
        "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": asked}],
    }
    return _kind("keda.sh/v1alpha1", "ScaledObject", name, deployment) | {"spec": spec}


def _behavior() -> dict[str, Any]:
    """Down slowly: a copy that goes drains, and one that comes loads the model first."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": 0},
        "scaleDown": {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}]},
    }
