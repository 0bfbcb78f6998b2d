"""The image run as its users run it, spoken to with their clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from containers import Container, docker

pytestmark = pytest.mark.docker
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of England?"}]
ANSWER = "The capital of England is London."
SECRETS = {"SM_VLLM_API_KEY": "key-4f1c9e77", "HF_TOKEN": "hf_token5d1a0b"}


@pytest.fixture(scope="module")
def server(image: str, model_options: tuple[str, ...]) -> Iterator[Container]:
    env = {"SM_VLLM_MODEL": "/opt/ml/model/model.gguf", "SM_VLLM_SERVED_MODEL_NAME": "demo", "SM_VLLM_DTYPE": "float32"}
    with Container(image, "serve", env=env, options=model_options) as container:
        yield container.wait_ready()


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_ping(server: Container, method: str) -> None:
    assert httpx.request(method, f"{server.url}/ping").status_code == 200


def test_invocations_whole_and_streamed(server: Container) -> None:
    body = {"messages": QUESTION, "temperature": 0}
    whole = httpx.post(f"{server.url}/invocations", json=body, timeout=60)
    assert whole.json()["choices"][0]["message"]["content"] == ANSWER
    assert int(whole.headers["content-length"]) == len(whole.content)
    streamed = httpx.post(f"{server.url}/invocations", json={**body, "stream": True}, timeout=60)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]) == ANSWER


def test_openai_client(server: Container) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
        assert answer.choices[0].message.content == ANSWER
        chunks = client.chat.completions.create(model="", messages=QUESTION, temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER


def test_the_health_check_of_the_image(server: Container) -> None:
    server.wait_for(lambda: server.state()["Health"]["Status"] == "healthy", timeout_s=40)


def test_flags_and_no_word_at_all_start_it_too(image: str, model_options: tuple[str, ...]) -> None:
    """Without `serve`, as `docker run IMAGE --flag` does; the model is found where SageMaker puts it."""
    with Container(image, "--max-num-seqs", "3", options=model_options) as container:
        container.wait_ready()
        assert "max-num-seqs = 3   (--max-num-seqs)" in container.logs()
        assert "directory /opt/ml/model" in container.logs()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"SM_VLLM_MODLE": "x"}, "environment SM_VLLM_MODLE: unknown option; did you mean SM_VLLM_MODEL?"),
        ({"SM_VLLM_MODEL": "demo", "SM_VLLM_MAX_NUM_SEQS": "many"}, "SM_VLLM_MAX_NUM_SEQS: expected a whole number of at least 1"),
    ],
)
def test_a_wrong_variable_ends_it_with_one_line(image: str, env: dict[str, str], sentence: str) -> None:
    with Container(image, "serve", env=env) as container:
        assert container.wait_exit() == 2
        lines = [line for line in container.logs().splitlines() if "error" in line and "no model" not in line]
        assert len(lines) == 1
        assert lines[0].startswith("headway: error: ")
        assert sentence in lines[0]


def test_no_model_says_where_it_looked(image: str) -> None:
    with Container(image) as container:
        assert container.wait_exit() == 2
        last = container.logs().splitlines()[-1]
        for place in ("SM_VLLM_MODEL", "/opt/ml/model", "HF_MODEL_ID"):
            assert place in last


def test_a_model_of_the_hub_without_network_ends_it_at_once(image: str) -> None:
    with Container(image, "serve", env={"HF_MODEL_ID": "org/model"}, network="none") as container:
        assert container.wait_exit(timeout_s=60) == 2
        assert "org/model" in container.logs().splitlines()[-1]


def test_secrets_show_nowhere(image: str, model_options: tuple[str, ...]) -> None:
    with Container(image, "serve", env=SECRETS, options=model_options) as container:
        container.wait_ready()
        headers = {"Authorization": f"Bearer {SECRETS['SM_VLLM_API_KEY']}"}
        answer = httpx.post(f"{container.url}/invocations", json={"messages": QUESTION, "max_tokens": 4}, headers=headers, timeout=60)
        assert answer.status_code == 200
        assert httpx.post(f"{container.url}/invocations", json={"messages": QUESTION}).status_code == 401
        assert httpx.get(f"{container.url}/ping").status_code == 200
        seen = {
            "ps": container.exec("ps", "axww", "-o", "pid,args"),
            "top": docker("top", container.name).stdout,
            "cmdline": container.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
            "logs": container.logs(),
            "metrics": httpx.get(f"{container.url}/metrics").text,
            "config": docker("exec", container.name, "headway", "serve", "demo", "--show-config").stdout,
            "files": container.exec("sh", "-c", "grep -r -a -h -e key-4f1c -e hf_token5d1 /tmp /run /var 2>/dev/null || true"),
        }
        assert "headway" in seen["ps"]
        for place, text in seen.items():
            for secret in SECRETS.values():
                assert secret not in text, f"{place} shows a secret"


@pytest.mark.parametrize("user", ["0:0", "12345:54321"])
def test_read_only_as_any_user_without_network(image: str, model_options: tuple[str, ...], user: str) -> None:
    options = (*model_options, "--read-only", "--tmpfs", "/tmp", "--user", user, "--cap-drop", "ALL", "--shm-size", "64m")
    with Container(image, "serve", options=options, network="none") as container:
        container.wait_for(lambda: container.request("/ping")[0] == 200, timeout_s=120)
        status, text = container.request("/invocations", {"messages": QUESTION, "temperature": 0})
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == ANSWER


class _Stream(threading.Thread):
    """Reads one streamed answer to its end."""

    def __init__(self, container: Container, num_tokens: int) -> None:
        super().__init__()
        self._url = f"{container.url}/invocations"
        self._body = {"messages": QUESTION, "stream": True, "max_tokens": num_tokens, "ignore_eos": True}
        self.has_begun = threading.Event()
        self.events: list[str] = []

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.events.append(line.removeprefix("data: "))
                    self.has_begun.set()


def test_docker_stop_lets_16_streams_finish(image: str, model_options: tuple[str, ...]) -> None:
    """However long a busy machine takes for them: it made 18 tokens a second with two threads, one of which always waited for the other."""
    env = {"SM_VLLM_SHUTDOWN_TIMEOUT": "90", "OMP_NUM_THREADS": "1"}
    with Container(image, "serve", env=env, options=model_options) as container:
        container.wait_ready()
        streams = [_Stream(container, num_tokens=80) for _ in range(16)]
        for stream in streams:
            stream.start()
        for stream in streams:
            assert stream.has_begun.wait(60)
        stopping = threading.Thread(target=docker, args=("stop", "--time", "100", container.name))
        stopping.start()
        container.wait_for(lambda: container.status("/ping") == 503)
        refused = httpx.post(f"{container.url}/invocations", json={"messages": QUESTION})
        assert refused.status_code == 503
        for stream in streams:
            stream.join(100)
        stopping.join(60)
        for stream in streams:
            assert stream.events[-1] == "[DONE]"
            last = json.loads(stream.events[-2])
            assert "choices" in last, f"ended by {last}; the log:\n{container.logs()}"
            assert last["choices"][0]["finish_reason"] == "length"
        assert container.state()["ExitCode"] == 0


def test_a_killed_engine_turns_ping_to_503_and_ends_the_container(image: str, model_options: tuple[str, ...]) -> None:
    with Container(image, "serve", options=model_options) as container:
        container.wait_ready()
        container.exec("pkill", "-9", "-f", "spawn_main")
        container.wait_for(lambda: container.status("/ping") == 503)
        reason = httpx.get(f"{container.url}/ping").json()
        assert reason["status"] == "dead"
        assert container.wait_exit() == 1
        assert "the engine has stopped" in container.logs().splitlines()[-1]
