"""schemathesis over the OpenAPI document of a real server: `make fuzz MINUTES=20`, and half a minute with every test run.

Fails for a 5xx other than a justified 503 or 507, an answer that takes more than 10 s, a malformed error, an open door, and for
anything that the document does not say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fuzz_hooks import ADAPTER, MODEL
from live_server import LiveServer
from prometheus_client.parser import text_string_to_metric_families
from tiny_adapters import make_adapter
from tiny_encoders import make_tiny_encoder
from tiny_tokenizers import byte_level_backend

from headway.server.bench.stub_model import write_stub_model
from headway.server.loading.model_config import read_config
from headway.server.source.files import ModelFiles

pytestmark = pytest.mark.e2e

KEY = "fuzz-key"
MINUTES = os.environ.get("FUZZ_MINUTES")
# The boundaries of every field (the coverage phase) alone take minutes.
QUIET = ("--warnings", "off", "--suppress-health-check", "all")  # they are about schemathesis' own ease
EXTENT = f"--max-time {float(MINUTES) * 60:.0f}" if MINUTES else "--max-time 30 --phases examples,fuzzing --max-examples 15"
POOLING_ROUTES = "^/(v1/embeddings|pooling|classify|score|v1/score|rerank|v1/rerank|v2/rerank)$"
CHECKS = (
    "no_server_error,error_object,ignored_auth,unsupported_method,"
    "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the stub model, beside it."""
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "model").mkdir()
    write_stub_model(directory / "model")
    return make_adapter(directory / "adapter", read_config(ModelFiles("safetensors", directory / "model", None, MODEL)))


@pytest.fixture(scope="module")
def server(adapter: Path) -> Iterator[LiveServer]:
    options = f"--load-format dummy --served-model-name {MODEL} --max-model-len 128 --kv-cache-memory-bytes 64m --enable-stateful-sessions"
    lora = f"--enable-lora --allow-runtime-lora-updating --lora-allowed-prefixes {adapter.parent} --lora-modules {ADAPTER}={adapter}"
    with LiveServer(str(adapter.parent / "model"), *options.split(), *lora.split(), env={"VLLM_API_KEY": KEY}) as live:
        yield live.wait_ready()


@pytest.fixture(scope="module", params=[False, True], ids=["encoder", "classifier"])
def pooling_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("pooling")
    make_tiny_encoder("bert", folder, is_classifier=request.param, vocab_size=264, **({"num_labels": 1} if request.param else {}))
    byte_level_backend().save(str(folder / "tokenizer.json"))
    options = f"--served-model-name {MODEL} --dtype float32 --enable-stateful-sessions"
    with LiveServer(str(folder), *options.split(), env={"VLLM_API_KEY": KEY}) as live:
        yield live.wait_ready()


@pytest.mark.timeout(0)
def test_no_request_breaks_the_server(server: LiveServer, adapter: Path, tmp_path: Path) -> None:
    _fuzz(server, tmp_path, f"{EXTENT} --exclude-path-regex {POOLING_ROUTES}", adapter)
    assert server.metric("vllm:kv_cache_usage_perc") == 0


@pytest.mark.skipif(not MINUTES, reason="make fuzz; test_valid_requests.py sends to such servers with every test run")
@pytest.mark.timeout(0)
def test_no_request_breaks_a_server_that_pools(pooling_server: LiveServer, tmp_path: Path) -> None:
    _fuzz(pooling_server, tmp_path, f"{EXTENT} --include-path-regex {POOLING_ROUTES}")


def _fuzz(server: LiveServer, tmp_path: Path, extent: str, adapter: Path | None = None) -> None:
    command = shutil.which("schemathesis", path=Path(sys.executable).parent)
    assert command, "schemathesis is not installed beside this python"
    options = f"{extent} --seed 1 --workers 1 --request-timeout 10 --checks {CHECKS} --continue-on-failure"
    done = subprocess.run(
        [command, "run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}", *options.split(), *QUIET],
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "fuzz_hooks",
            "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
            "FUZZ_ADAPTER_PATH": str(adapter or ""),
        },
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    print(_answers(httpx.get(f"{server.url}/metrics").text))
    assert done.returncode == 0, done.stdout + done.stderr
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0)
    assert "Traceback" not in server.log()


def _answers(exposition: str) -> str:
    """How many requests were answered how, on the routes that take a body."""
    counts: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "http_requests_total" and sample.labels["method"] == "POST":
                counts[sample.labels["handler"], sample.labels["status"]] += int(sample.value)
    lines = [f"  {handler} {status}: {count}" for (handler, status), count in sorted(counts.items())]
    return "\n".join([f"{counts.total()} POST requests:", *lines])
