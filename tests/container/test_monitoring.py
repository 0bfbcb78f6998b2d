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
from certificates import Authority, TlsFiles
from exposition import text_of_a_gpu
from prometheus_client.parser import text_string_to_metric_families

CONTAINER = Path(__file__).resolve().parents[2] / "container"
# What Prometheus itself puts on every series.
_OF_PROMETHEUS = {"instance", "job"}
_SELECTOR = re.compile(r"((?:vllm:|headway:|http_|process_)[a-z0-9_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'([a-z_]+)(=~|=)"([^"]*)"')
_GROUPING = re.compile(r"\bby \(([^)]*)\)")
_NAME = re.compile(r"\b(?:vllm:|headway:|http_|process_)[a-z0-9_]+")


def load(path: str) -> Any:
    return yaml.safe_load((CONTAINER / path).read_text())


def dashboards() -> Iterator[dict[str, Any]]:
    for path in sorted((CONTAINER / "grafana/dashboards").glob("*.json")):
        yield json.loads(path.read_text())


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for dashboard in dashboards() for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    variables = [variable for dashboard in dashboards() for variable in dashboard["templating"]["list"]]
    found += [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    return found + [rule["expr"] for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> its values, of a server with TLS that has answered well, badly, and not at all."""
    authority = Authority()
    files = TlsFiles(tmp_path_factory.mktemp("tls"), authority.identity())
    with ApiServer(tls=files.options, verify=authority.client()) as server:
        assert server.post("/v1/completions", {"prompt": "a"}).status_code == 200
        server.drain.begin()
        assert server.post("/v1/completions", {"prompt": "a"}).status_code == 503
        text = server.client.get("/metrics").text + text_of_a_gpu()
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
    for dashboard in dashboards():
        chosen = {variable["name"]: variable for variable in dashboard["templating"]["list"]}["datasource"]
        assert (chosen["type"], chosen["query"], chosen["current"]["value"]) == ("datasource", source["type"], source["uid"])


def test_panels_can_be_read() -> None:
    """A title and a sentence, a unit, a name for each line, and what the variables above the panels choose."""
    titles = [(panel["title"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(titles)) == len(titles) > 30
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            for name, selector in _SELECTOR.findall(target["expr"]):
                assert 'instance=~"$instance"' in selector, panel["title"]
                assert not name.startswith("vllm:") or 'model_name=~"$model_name"' in selector, panel["title"]
            assert len(_NAME.findall(target["expr"])) == len(_SELECTOR.findall(target["expr"])), panel["title"]


def test_panels_do_not_lie_on_each_other() -> None:
    for dashboard in dashboards():
        taken: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in dashboard["panels"]):
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_prometheus_takes_what_it_is_asked(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    asked = [expression.replace("$__rate_interval", "5m") for expression in expressions() if not expression.startswith("label_values(")]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=CONTAINER / "prometheus", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
