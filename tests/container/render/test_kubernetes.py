from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from rendered_yaml import HOSTILE, IMAGE, as_options, documents, refusal, render

MODEL = ("-e", "SM_VLLM_MODEL=demo")
VERSIONS = ("1.29", "1.37")  # the oldest that clusters still run, and the newest that there are schemas of
KINDS = ["ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"]


@pytest.fixture
def kubernetes(capsys: pytest.CaptureFixture[str]) -> Any:
    """Renders; each object by its kind, checked strictly against Kubernetes' own schemas (KEDA's are not among them)."""

    def rendered(*words: str) -> dict[str, Any]:
        found = documents(render(capsys, "kubernetes", "--image", IMAGE, *words))
        for each in found:
            if not each["apiVersion"].startswith("keda.sh/"):
                for version in VERSIONS:
                    kubernetes_validate.validate(each, version, strict=True)
        return {each["kind"]: each for each in found}

    return rendered


@pytest.fixture
def pod(kubernetes: Any) -> Any:
    return lambda *words: kubernetes(*words)["Deployment"]["spec"]["template"]["spec"]


def test_what_is_made(kubernetes: Any) -> None:
    found = kubernetes(*MODEL, "--name", "chat", "--min-copies", "2", "--tag", "team=models and more")
    assert list(found) == KINDS
    selected = {"app.kubernetes.io/name": "headway", "app.kubernetes.io/instance": "chat"}
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == selected
    assert found["Deployment"]["spec"]["template"]["metadata"]["labels"] == selected
    assert found["Deployment"]["spec"]["replicas"] == 2
    assert found["Service"]["spec"] == {"selector": selected, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    assert found["PodDisruptionBudget"]["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selected
    assert found["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "http"}]
    for each in found.values():
        assert each["metadata"]["name"] == "chat"
        assert json.loads(each["metadata"]["annotations"]["headway/tags"]) == {"team": "models and more"}


def test_metrics_are_scraped_where_they_are(kubernetes: Any) -> None:
    template = kubernetes(*MODEL, "--", "--port", "9000")["Deployment"]["spec"]["template"]
    scraped = {"scrape": "true", "port": "9000", "path": "/metrics", "scheme": "http"}
    assert template["metadata"]["annotations"] == {f"prometheus.io/{name}": value for name, value in scraped.items()}
    assert template["spec"]["containers"][0]["ports"] == [{"name": "http", "containerPort": 9000}]


def test_the_pod_has_no_more_rights_than_it_needs(kubernetes: Any) -> None:
    found = kubernetes(*MODEL)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert (pod["automountServiceAccountToken"], found["ServiceAccount"]["automountServiceAccountToken"]) == (False, False)
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    container = pod["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    assert pod["volumes"][1] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


def test_probes_ask_for_as_long_as_it_may_take(pod: Any) -> None:
    spec = pod(*MODEL, "--startup-timeout", "602")
    container = spec["containers"][0]
    asked = {"path": "/health", "port": "http", "scheme": "HTTP"}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == asked
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 605
    readiness, liveness = container["readinessProbe"], container["livenessProbe"]
    assert readiness["failureThreshold"] * readiness["periodSeconds"] < liveness["failureThreshold"] * liveness["periodSeconds"]


def test_a_drain_has_the_time_that_it_was_given(pod: Any) -> None:
    spec = pod(*MODEL, "--", "--shutdown-timeout", "100")
    assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert spec["terminationGracePeriodSeconds"] == 5 + 100 + 5


def test_probes_speak_tls_and_show_a_certificate_where_one_is_asked_for(kubernetes: Any) -> None:
    tls = ("-e", "SM_VLLM_SSL_KEYFILE=/run/secrets/tls.key", "-e", "SM_VLLM_SSL_CERTFILE=/run/secrets/tls.crt")
    found = kubernetes(*MODEL, *tls)
    assert found["Service"]["spec"]["ports"][0]["port"] == 443
    template = found["Deployment"]["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/scheme"] == "https"
    assert template["spec"]["containers"][0]["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    clients = ("-e", "SM_VLLM_SSL_CA_CERTS=/run/secrets/ca.crt", "-e", "SM_VLLM_SSL_CERT_REQS=required")
    container = kubernetes(*MODEL, *tls, *clients)["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["exec"] == {"command": ["headway", "health"]}
    assert "httpGet" not in container["livenessProbe"]


def test_an_instance_is_a_node_and_most_of_it(pod: Any) -> None:
    spec = pod(*MODEL, "--instance", "ml.g6.12xlarge")
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "g6.12xlarge"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == {"memory": "153Gi", "nvidia.com/gpu": "4"}
    assert resources["requests"] == {"cpu": "38", "memory": "153Gi", "nvidia.com/gpu": "4"}
    plain = pod(*MODEL)
    assert "limits" not in plain["containers"][0]["resources"]
    assert "nodeSelector" not in plain


def test_secrets_are_mounted_and_never_values(pod: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*MODEL, "-e", "SM_VLLM_API_KEY_FILE=/run/secrets/api_key")
    spec = pod(*words)
    container = spec["containers"][0]
    # Below /run/secrets nothing else could be mounted, and EKS does: /var/run is the same place.
    assert {"name": "SM_VLLM_API_KEY_FILE", "value": "/etc/headway/secrets/api_key"} in container["env"]
    assert container["volumeMounts"][-1] == {"name": "secrets", "mountPath": "/etc/headway/secrets", "readOnly": True}
    assert spec["volumes"][-1]["secret"] == {
        "secretName": "headway-secrets",
        "defaultMode": 0o440,
        "items": [{"key": "api_key", "path": "api_key"}],
    }
    text = render(capsys, "kubernetes", "--image", IMAGE, *words)
    assert "# Secrets (api_key): kubectl create secret generic headway-secrets --from-file=api_key" in text
    said = refusal(capsys, "kubernetes", "--image", IMAGE, *MODEL, "-e", "HF_TOKEN=hunter2-hunter2")
    assert "HF_TOKEN" in said
    assert "hunter2" not in said


def test_the_model_is_claimed_or_fetched(pod: Any, tmp_path: Path) -> None:
    spec = pod("--model-dir", str(tmp_path), *MODEL)
    assert spec["volumes"][-1] == {"name": "model", "persistentVolumeClaim": {"claimName": "headway-model", "readOnly": True}}
    assert spec["containers"][0]["volumeMounts"][-1] == {"name": "model", "mountPath": "/opt/ml/model", "readOnly": True}
    fetched = pod("--model-data", "s3://bucket/model/")["containers"][0]
    assert fetched["env"] == [{"name": "SM_VLLM_MODEL", "value": "s3://bucket/model/"}]


def test_copies_follow_the_requests_that_run_and_wait(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*MODEL, "--min-copies", "2", "--max-copies", "5", "--concurrency", "40")
    found = kubernetes(*words)
    assert "replicas" not in found["Deployment"]["spec"]  # each apply would undo what the autoscaler did
    spec = found["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    metric = spec["metrics"][0]["pods"]
    assert metric["target"] == {"type": "AverageValue", "averageValue": "40"}
    text = render(capsys, "kubernetes", "--image", IMAGE, *words)
    [rule] = yaml.safe_load("\n".join(re.findall(r"^#   (.*)$", text, re.MULTILINE)))
    assert rule["name"] == {"as": metric["metric"]["name"]}
    assert "vllm:num_requests_running|vllm:num_requests_waiting" in rule["metricsQuery"]


def test_keda_asks_prometheus_itself(kubernetes: Any) -> None:
    found = kubernetes(*MODEL, "--max-copies", "3", "--concurrency", "40", "--prometheus", "http://prometheus.monitoring:9090")
    assert list(found) == [*KINDS, "ScaledObject"]
    spec = found["ScaledObject"]["spec"]
    assert spec["scaleTargetRef"] == {"name": "headway"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 3)
    [trigger] = spec["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["serverAddress"] == "http://prometheus.monitoring:9090"
    assert trigger["metadata"]["threshold"] == "40"
    pattern = re.search(r'pod=~"([^"]+)"', trigger["metadata"]["query"])
    assert pattern is not None
    assert re.fullmatch(pattern[1], "headway-6d5f8c7b9-x2x7q")
    assert not re.fullmatch(pattern[1], "other-6d5f8c7b9-x2x7q")


def test_hostile_values_come_out_as_they_were(pod: Any) -> None:
    container = pod(*MODEL, *as_options(HOSTILE), "--", "--served-model-name", "$(chat)")["containers"][0]
    assert {each["name"]: each["value"].replace("$$", "$") for each in container["env"]} == {"SM_VLLM_MODEL": "demo", **HOSTILE}
    assert {"name": "A_VARIABLE", "value": "$$HOME $${HOME} $$$$ $$(HOME) $$"} in container["env"]
    assert container["args"] == ["--served-model-name", "$$(chat)"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--name", "1chat"), "--name 1chat: a Service's name begins with a letter"),
        (("--prometheus", "prometheus:9090"), "--prometheus must be http(s)://HOST"),
        (("--prometheus", "http://prometheus:9090"), "--prometheus: copies follow the load only with --max-copies above --min-copies"),
        (("--prometheus", "http://me:hunter2@prometheus"), "--prometheus must be http(s)://HOST"),
        (("--adapter", "a=s3://bucket/a.tar.gz"), "--adapter: only SageMaker fetches adapters"),
    ],
)
def test_what_can_not_be_rendered_is_said(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str) -> None:
    said = refusal(capsys, "kubernetes", "--image", IMAGE, *MODEL, *words)
    assert sentence in said
    assert "hunter2" not in said
