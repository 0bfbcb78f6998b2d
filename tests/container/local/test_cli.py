"""`headway local` as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from botocore.exceptions import ClientError
from data_plane import boto
from hostile_container import HostileContainer
from live_server import LiveServer
from threaded_server import ThreadedServer
from tiny_served import make_served_model

from headway.container.local.cli import main
from headway.server.errors import ConfigError


@contextlib.contextmanager
def started(*words: str) -> Iterator[dict[str, str]]:
    """What it exports while it runs; it must end well when told to."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    argv = [sys.executable, "-m", "headway.server.cli", "local", "--port", "0", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            exports: dict[str, str] = {}
            while "AWS_SECRET_ACCESS_KEY" not in exports:
                found = re.fullmatch(r"export (\w+)=(\S+)\n", line := process.stdout.readline())
                assert found, (line, process.poll())
                exports[found[1]] = found[2]
            yield exports
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_one_endpoint_from_start_to_end() -> None:
    container = HostileContainer()
    with ThreadedServer(container) as server, started("--url", f"{server.url}/", "--endpoint-name", "mine", "--split", "2") as exports:
        url = exports["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"]
        assert exports == {
            "AWS_ENDPOINT_URL_SAGEMAKER": url,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url,
            "AWS_ENDPOINT_URL_APPLICATION_AUTO_SCALING": url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }
        client = boto(url)
        assert client.invoke_endpoint(EndpointName="mine", Body=b"hi")["Body"].read() == b"hi"
        stream = client.invoke_endpoint_with_response_stream(EndpointName="mine", Body=b"hello")["Body"]
        assert [event["PayloadPart"]["Bytes"] for event in stream] == [b"he", b"ll", b"o"]


@pytest.mark.e2e
def test_the_real_server_behind_it(tmp_path: Path) -> None:
    with LiveServer(make_served_model(tmp_path), "--dtype", "float32", "--served-model-name", "tiny") as server:
        server.wait_ready()
        with started("--url", server.url) as exports:
            url = exports["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"]
            client, body = boto(url), b'{"prompt": "a b", "max_tokens": 5, "ignore_eos": true, "stream": %s}'
            whole = client.invoke_endpoint(EndpointName="local", Body=body % b"false", ContentType="application/json")
            assert b'"completion_tokens":5' in whole["Body"].read().replace(b" ", b"")
            stream = client.invoke_endpoint_with_response_stream(EndpointName="local", Body=body % b"true", ContentType="application/json")
            assert b"".join(event["PayloadPart"]["Bytes"] for event in stream["Body"]).endswith(b"data: [DONE]\n\n")
            with openai.OpenAI(base_url=f"{url}/endpoints/local/openai/v1", api_key="any") as chatting:
                messages = [{"role": "user", "content": "hi"}]
                with pytest.raises(openai.APIStatusError, match="chat template"):  # the tiny model has none
                    chatting.chat.completions.create(model="", messages=messages)  # type: ignore[arg-type]


@pytest.mark.e2e
def test_an_endpoint_of_processes(tmp_path: Path) -> None:
    model = make_served_model(tmp_path)
    words = ("--process", "-e", "SM_VLLM_DTYPE=float32", "-e", "SM_VLLM_SERVED_MODEL_NAME=tiny", "--model-dir", model)
    with started(*words) as exports:
        url = exports["AWS_ENDPOINT_URL_SAGEMAKER"]
        assert exports["AWS_ENDPOINT_URL_S3"] == exports["AWS_ENDPOINT_URL_SNS"] != url
        control = boto(url, service="sagemaker")
        control.get_waiter("endpoint_in_service").wait(EndpointName="local", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        answer = boto(url).invoke_endpoint(EndpointName="local", Body=b'{"prompt": "a b", "max_tokens": 3}', ContentType="application/json")
        assert b"completion_tokens" in answer["Body"].read()
        scaling = boto(url, service="application-autoscaling")
        assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
        assert control.list_transform_jobs()["TransformJobSummaries"] == []
        with pytest.raises(ClientError, match="no AsyncInferenceConfig"):
            boto(url).invoke_endpoint_async(EndpointName="local", InputLocation="s3://bucket/key")
        control.delete_endpoint(EndpointName="local")
        control.get_waiter("endpoint_deleted").wait(EndpointName="local", WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def test_print_env_only_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-env", "--port", "9000"], {"AWS_PROFILE": "mine", "AWS_REGION": "eu-west-1"}) == 0
    printed = capsys.readouterr()
    assert "S3 and SNS are left out" in printed.err  # else boto3 would call AWS for them without a word
    lines = printed.out.splitlines()
    assert "export AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:9000" in lines
    assert "export AWS_DEFAULT_REGION=eu-west-1" in lines
    assert not any("ACCESS_KEY" in line for line in lines)


@pytest.mark.parametrize(
    ("host", "name"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("2001:db8::5", "[2001:db8::5]"), ("gpu.local", "gpu.local")],
)
def test_clients_get_an_address_that_they_can_call(host: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-env", "--host", host, "--port", "9000"], {}) == 0
    assert f"export AWS_ENDPOINT_URL_SAGEMAKER={shlex.quote(f'http://{name}:9000')}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say what is to be called: --url"),
        (["--url", "http://127.0.0.1:1", "-e", "SM_VLLM_SEED=1"], "--url: its server runs already"),
        (["--url", "http://127.0.0.1:1", "--autoscaling-interval", "1"], "--url: its server runs already"),
        (["--url", "127.0.0.1:8080"], "--url takes the address of a server"),
        (["--url", "http://user:word@host"], "--url takes the address of a server"),
        (["--url", "http://127.0.0.1:1", "--faults", "death=0.1"], "death needs a copy that was started here"),
        (["--url", "http://127.0.0.1:1", "--faults", "rain=0.1"], "'rain' is no fault"),
        (["--process", "--endpoint-name", "mine"], "--endpoint-name mine: no endpoint is made at once without a model"),
        (["--url", "http://127.0.0.1:1", "--endpoint-name", "a b"], "--endpoint-name: 1 validation error detected"),
        (["--url", "http://127.0.0.1:1", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_what_can_not_be_used_is_said(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(words, {})
    assert told in str(caught.value)


def test_a_port_that_others_reach_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError):
        main(["--url", "http://127.0.0.1:1", "--host", "192.0.2.1"], {})
    assert "whoever reaches this port can call the endpoint" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "-1", "soon", "99999"])
def test_an_autoscaling_interval_is_a_time(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--process", f"--autoscaling-interval={interval}"], {})
    assert "must be a number of seconds above 0" in capsys.readouterr().err
