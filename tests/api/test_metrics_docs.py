"""docs/metrics.md tells of every metric, with its type and labels, and of none that is not exported."""

from __future__ import annotations

import re
from pathlib import Path

from api_server import ApiServer
from exposition import exported, metrics_of, text_of_a_gpu
from websockets.sync.client import connect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `([a-z0-9_:]+)` \| (gauge|counter|histogram|summary) \|([^|]*)\|", re.MULTILINE)
# Python's own client makes these, and they are the same in every server.
# Sections whose metrics all have the labels of an engine.
_OF_ENGINES = ("Engine\n", "Requests\n", "Speculative decoding\n", "KV transfer\n", "KV offload\n", "Experts\n")
DRAFTS = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}
CONNECTORS = ("NixlConnector", "OffloadingConnector")
_NOT_OURS = ("process_", "python_")


def documented() -> dict[str, tuple[str, set[str]]]:
    """(type, labels) by name. vLLM's have two labels more than a row names, but where it says otherwise."""
    found = {}
    for section in PAGE.read_text().split("\n## "):
        common = {"model_name", "engine"} if section.startswith(_OF_ENGINES) else set()
        for name, kind, cell in _ROW.findall(section):
            further, _, without = cell.strip().partition("; no ")
            left_out = common if without == "others" else {without}
            found[name] = (kind, {label for label in further.split(", ") if label} | common - left_out)
    return found


def text_with(connector: str) -> str:
    """What a server with that KV connector exports."""
    transfer = {"kv_transfer_config": {"kv_connector": connector, "kv_role": "kv_both"}}
    with ApiServer(kv_transfer=transfer) as server:
        return server.client.get("/metrics").text


def test_the_page_tells_of_what_is_exported() -> None:
    options = {
        "lora": {"enable_lora": True},
        "sagemaker": {"enable_stateful_sessions": True},
        "parallel": {"enable_eplb": True},
        "speculative": DRAFTS,
    }
    with ApiServer(phases={"loading weights": 1.5}, **options) as server:
        server.post("/v1/completions", {"promt": "x"})
        with connect(f"ws{server.url.removeprefix('http')}/invocations-bidirectional-stream"):
            text = server.client.get("/metrics").text
        assert metrics_of(server)["headway:startup_phase_seconds{'phase': 'loading weights'}"] == 1.5
    texts = [*map(text_with, CONNECTORS), text_of_a_gpu(), text]
    found = {name: (metric.kind, set(metric.labels)) for each in texts for name, metric in exported(each).items()}
    assert documented() == {name: facts for name, facts in found.items() if not name.startswith(_NOT_OURS)}
