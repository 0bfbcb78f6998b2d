"""The manifest of docs/multi-node.md: what Kubernetes and our own options say of it, and the fields that KubeRay has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from headway.server.config.server import problems
from headway.server.config.sources import resolve

PAGE = Path(__file__).resolve().parents[3] / "docs/multi-node.md"
# Of ray.io/v1, those that the manifest may use.
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = HEAD_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    (text,) = re.findall(r"```yaml\n(.+?)```", PAGE.read_text(), re.DOTALL)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]


def script_of(group: dict[str, Any]) -> str:
    (container,) = group["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/bash", "-ec"]
    (script,) = container["args"]
    return str(script).replace("\\\n", " ")


def test_it_is_a_cluster_as_kuberay_has_it(cluster: dict[str, Any]) -> None:
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert cluster["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    head, *workers = groups(cluster)
    assert set(head) == HEAD_GROUP
    assert all(set(worker) == WORKER_GROUP for worker in workers)


def test_its_pods_are_valid(cluster: dict[str, Any]) -> None:
    for group in groups(cluster):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_its_server_takes_as_many_ranks_as_it_has_gpus(cluster: dict[str, Any]) -> None:
    head, *workers = groups(cluster)
    (line,) = [line for line in script_of(head).splitlines() if "headway serve" in line]
    words = shlex.split(line)
    config = resolve(words[words.index("serve") + 1 :], {}).config
    assert problems(config) == []
    assert config.parallel.uses_ray
    gpus = [group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for group in (head, *workers)]
    assert config.parallel.num_ranks == sum(count * group.get("replicas", 1) for count, group in zip(gpus, groups(cluster), strict=True))
    probe = head["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/ping", config.network.port)


def test_ray_takes_its_options(cluster: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for group in groups(cluster):
        words = shlex.split(script_of(group))
        used = [word.partition("=")[0] for word in words[words.index("start") + 1 :]]
        used = used[: used.index("exec")] if "exec" in used else used
        assert set(used) <= known
        assert "--disable-usage-stats" in used
