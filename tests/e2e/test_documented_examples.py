"""The configuration examples that vLLM's users know, as far as one host goes, each run as it is written."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from dummy_model import write_dummy_model
from live_server import LiveServer

from headway.server.config.sources import resolve

pytestmark = pytest.mark.e2e

ORIGIN = "https://yourdomain.com"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dummy_model(tmp_path_factory.mktemp("model"), max_position_embeddings=32768))


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return client.options("/v1/chat/completions", headers=asked)


def completes(client: httpx.Client, key: str) -> bool:
    body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 3


@pytest.fixture(scope="module")
def production(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Basic production configuration, on one device."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = [
        *("--ssl-keyfile", f"{folder}/key.pem", "--ssl-certfile", f"{folder}/cert.pem"),
        *("--api-key", "your-secret-key", "--allowed-origins", f'["{ORIGIN}"]'),
        *("--tensor-parallel-size", "1", "--gpu-memory-utilization", "0.9", "--max-model-len", "32768"),
    ]
    with LiveServer(model, "--load-format", "dummy", *options) as live:
        url = f"https://localhost:{live.port}"
        with httpx.Client(base_url=url, verify=context, timeout=60) as client:
            live.wait_for(lambda: client.get("/ping").status_code == 200, 120)
            yield client


def test_basic_production_speaks_tls_with_a_key(production: httpx.Client) -> None:
    assert completes(production, "your-secret-key")
    assert not completes(production, "another-key")
    assert production.get("/v1/models").status_code == 401
    card = production.get("/v1/models", headers={"Authorization": "Bearer your-secret-key"}).json()["data"][0]
    assert card["max_model_len"] == 32768
    with pytest.raises(httpx.TransportError):
        httpx.get(str(production.base_url).replace("https", "http"))


def test_basic_production_lets_one_origin_in(production: httpx.Client) -> None:
    allowed = preflight(production, ORIGIN)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    refused = preflight(production, "https://elsewhere.example")
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


PREFILL = ["--enable-chunked-prefill", "--max-num-batched-tokens", "16384"]


@pytest.mark.parametrize(
    "words",
    [
        ["--host", "prefill-node", "--port", "8000", "--tensor-parallel-size", "4", *PREFILL],
        ["--host", "decode-node", "--port", "8000", "--tensor-parallel-size", "2", "--max-num-seqs", "512"],
    ],
)
def test_each_node_of_the_disaggregated_example(words: list[str]) -> None:
    resolved = resolve(["demo", *words], {})
    assert resolved.warnings == ()
    assert resolved.config.network.host == words[1]


def test_sagemaker_variables(model: str) -> None:
    variables = {
        "SM_VLLM_MODEL": model,
        "SM_VLLM_LOAD_FORMAT": "dummy",
        "SM_VLLM_MAX_MODEL_LEN": "4096",
        "SM_VLLM_API_KEY": "your-key",
        "SM_VLLM_TENSOR_PARALLEL_SIZE": "4",
    }  # SM_VLLM_HOST and SM_VLLM_PORT are set by LiveServer
    with LiveServer(command="entrypoint", env=variables) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        live.wait_ready()
        assert completes(client, "your-key")
        assert client.post("/invocations", json={"prompt": "hello"}).status_code == 401
        assert client.get("/ping").status_code == 200
        assert "your-key" not in live.log()


def test_the_same_options_in_a_file(tmp_path: Path) -> None:
    words = ["demo", "--host=0.0.0.0", "--api-key=key1,key2", "--max-model-len=32768", "--enable-prefix-caching", "--max-num-seqs=256"]
    file = tmp_path / "server.yaml"
    file.write_text(
        "model: demo\nhost: 0.0.0.0\napi-key: [key1, key2]\nmax-model-len: 32768\nenable-prefix-caching: true\nmax-num-seqs: 256\n"
        "tensor-parallel-size: 1\n"
    )
    assert resolve([f"--config={file}"], {}).config == resolve(words, {}).config
    assert resolve([f"--config={file}", "--max-num-seqs", "8"], {}).config.scheduler.max_num_seqs == 8
