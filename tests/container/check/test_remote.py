"""Models that are not on this machine: a listing and a config, or a word on why they were not looked at."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from checked_models import look_at, write_whole_model
from hub_server import Hub, running_hub
from s3_server import BUCKET, S3

from headway.container.check.model_look import ModelLook
from headway.container.check.remote import look_at_hub
from headway.server.config.server import ServerConfig
from headway.server.source.hub import HubModel

FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    model = write_whole_model(tmp_path_factory.mktemp("model"))
    return {path.name: path.read_bytes() for path in model.iterdir()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def seen_on(hub: Hub, name: str, **environ: str) -> ModelLook:
    return look_at(name, environ={"HF_ENDPOINT": hub.url, **environ})


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in names}


def test_a_model_of_the_hub_is_read_without_its_weights(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repositories["org/checked"] = files | {"pytorch_model.bin": b"pickle"}
    look = seen_on(hub, "org/checked")
    assert (look.problems, look.warnings, look.place) == ([], [], "Hub")
    assert look.shape is not None
    assert look.shape.use == "generate"
    assert "pytorch_model.bin" not in look.sizes
    assert look.weight_file_bytes == 2 * len(files[FIRST])
    assert not any("safetensors" in request for request in hub.requests)
    assert "are on Hub, not on this machine" in look.not_checked[0]


def test_faults_that_a_listing_shows(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repositories["org/lacking"] = without(files, FIRST, "tokenizer.json")
    incomplete, no_tokenizer = seen_on(hub, "org/lacking").problems
    assert incomplete.endswith(f"is incomplete: 1 weight file missing, such as {FIRST}; upload all of them")
    assert "org/lacking has no tokenizer" in no_tokenizer
    for name in ("qwen.tiktoken", "vocab.txt"):  # forms that are converted
        hub.repositories["org/old"] = without(files, "tokenizer.json") | {name: b"x"}
        assert seen_on(hub, "org/old").problems == []
    hub.repositories["org/other"] = files | {"config.json": b'{"architectures": ["FalconForCausalLM"]}'}
    assert "which is not supported" in seen_on(hub, "org/other").problems[0]
    hub.repositories["org/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b""}
    assert "only as pytorch_model.bin" in seen_on(hub, "org/pickled").problems[0]
    hub.repositories["org/bare"] = without(files, "config.json")
    assert "org/bare has no config.json" in seen_on(hub, "org/bare").problems[0]


def test_the_hubs_refusals_are_problems(hub: Hub, files: dict[str, bytes]) -> None:
    assert "has no such repository" in seen_on(hub, "org/nowhere").problems[0]
    hub.repositories["org/closed"] = files
    hub.gated.add("org/closed")
    assert "is gated" in seen_on(hub, "org/closed").problems[0]
    assert seen_on(hub, "org/closed", HF_TOKEN="good").problems == []


def test_a_hub_that_fails_is_a_warning(hub: Hub) -> None:
    hub.status = 503
    look = seen_on(hub, "org/checked")
    assert look.problems == []
    assert look.warnings[0].startswith("org/checked could not be looked at. ")


def test_a_hub_that_does_not_answer_takes_no_longer_than_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = HubModel("org/slow", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        look = ModelLook("org/slow")
        look_at_hub(look, source, ServerConfig(), budget_s=0.2)
    assert "could not be looked at" in look.warnings[0]


@pytest.mark.parametrize(("given", "by"), [({"is_offline": True}, "--offline"), ({"environ": {"HF_HUB_OFFLINE": "1"}}, "HF_HUB_OFFLINE")])
def test_offline_nobody_is_asked(hub: Hub, given: dict[str, object], by: str) -> None:
    environ = {"HF_ENDPOINT": hub.url, **given.pop("environ", {})}  # type: ignore[dict-item]
    look = look_at("org/checked", environ=environ, **given)
    assert look.not_checked == [f"org/checked was not looked for on the Hub, as {by} asks"]
    assert hub.requests == []
    assert len(look.warnings) == (1 if by == "HF_HUB_OFFLINE" else 0)  # the container could not fetch it either


def test_a_model_on_s3(s3: S3, files: dict[str, bytes]) -> None:
    s3.put({f"org/m/inner/{name}": content for name, content in files.items()})
    look = look_at(f"s3://{BUCKET}/org/m/")
    assert (look.problems, look.warnings, look.place) == ([], [], "S3")
    assert look.shape is not None
    assert look.weight_file_bytes == 2 * len(files[FIRST])
    assert look_at(f"s3://{BUCKET}/org/m/", is_offline=True).not_checked == [f"s3://{BUCKET}/org/m/ was not looked at, as --offline asks"]


def test_what_s3_refuses_is_a_problem(s3: S3) -> None:
    assert "holds no objects" in look_at(f"s3://{BUCKET}/nothing/").problems[0]
    assert "There is no S3 bucket" in look_at("s3://another-bucket/m/").problems[0]


def test_an_archive_on_s3_is_not_looked_into(s3: S3) -> None:
    s3.put({"m/model.tar.gz": b"x"})
    look = look_at(f"s3://{BUCKET}/m/model.tar.gz")
    assert (look.problems, look.shape) == ([], None)
    assert look.not_checked[0].startswith("what is inside model.tar.gz")


def test_s3_that_can_t_be_reached_is_a_warning(monkeypatch: pytest.MonkeyPatch, s3: S3) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    look = look_at(f"s3://{BUCKET}/m/")
    assert look.problems == []
    assert "cannot be reached" in look.warnings[0]


def test_nothing_is_left_behind(hub: Hub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hub.repositories["org/checked"] = files
    assert seen_on(hub, "org/checked").shape is not None
    assert list(tmp_path.iterdir()) == []
