"""Compose, Prometheus and Grafana: wired to each other, and asking only for metrics that the server exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer

CONTAINER = Path(__file__).resolve().parents[2] / "container"
_NAME = re.compile(r"\b(?:vllm:|http_|process_)[a-z0-9_]+")


def load(path: str) -> Any:
    return yaml.safe_load((CONTAINER / path).read_text())


def dashboards() -> Iterator[dict[str, Any]]:
    for path in sorted((CONTAINER / "grafana/dashboards").glob("*.json")):
        yield json.loads(path.read_text())


def expressions() -> list[str]:
    found = [target["expr"] for dashboard in dashboards() for panel in dashboard["panels"] for target in panel["targets"]]
    found += [variable["query"]["query"] for dashboard in dashboards() for variable in dashboard["templating"]["list"]]
    return found + [rule["expr"] for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def exported() -> set[str]:
    with ApiServer() as server:
        assert server.post("/v1/completions", {"prompt": "a"}).status_code == 200
        text = server.client.get("/metrics").text
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_asked_for_is_exported(expression: str, exported: set[str]) -> None:
    names = set(_NAME.findall(expression))
    assert names or "up{" in expression
    assert names <= exported


def test_compose_wires_the_three_to_each_other() -> None:
    services = load("compose.yaml")["services"]
    target = load("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"][0]
    assert target == "headway:8080"
    source = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert set(services) == {"headway", "prometheus", "grafana"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "nothing is open to the network unasked"
        for volume in service["volumes"]:
            place = volume.split(":")[0]
            assert not place.startswith(".") or (CONTAINER / place).is_dir()
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert load("grafana/provisioning/dashboards/headway.yaml")["providers"][0]["options"]["path"] in mounted
    assert {panel["datasource"]["uid"] for dashboard in dashboards() for panel in dashboard["panels"]} == {source["uid"]}


def test_prometheus_takes_its_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=CONTAINER / "prometheus", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
