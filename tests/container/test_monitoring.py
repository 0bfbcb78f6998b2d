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
from prometheus_client.parser import text_string_to_metric_families

CONTAINER = Path(__file__).resolve().parents[2] / "container"
# What Prometheus itself puts on every series.
_OF_PROMETHEUS = {"instance", "job"}
_SELECTOR = re.compile(r"((?:vllm:|http_|process_)[a-z0-9_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'([a-z_]+)(=~|=)"([^"]*)"')
_GROUPING = re.compile(r"\bby \(([^)]*)\)")
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
def exported() -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> its values, of a server that has answered well, badly, and not at all."""
    with ApiServer() as server:
        assert server.post("/v1/completions", {"prompt": "a"}).status_code == 200
        server.drain.begin()
        assert server.post("/v1/completions", {"prompt": "a"}).status_code == 503
        text = server.client.get("/metrics").text
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_asked_for_is_exported(expression: str, exported: dict[str, dict[str, set[str]]]) -> None:
    names = set(_NAME.findall(expression))
    assert names or "up{" in expression
    assert names <= set(exported)


@pytest.mark.parametrize("expression", expressions())
def test_every_label_asked_for_is_there(expression: str, exported: dict[str, dict[str, set[str]]]) -> None:
    """Another label, or another value of it, would give an empty panel and an alert that never comes."""
    for name, selector in _SELECTOR.findall(expression):
        for label, operator, value in _MATCHER.findall(selector):
            if label in _OF_PROMETHEUS:
                continue
            assert label in exported[name]
            assert operator == "=~" or value in exported[name][label]
    known = {label for name in _NAME.findall(expression) for label in exported[name]} | _OF_PROMETHEUS
    for grouping in _GROUPING.findall(expression):
        assert set(grouping.replace(" ", "").split(",")) <= known


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
