from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from control_plane import LiveControlPlane
from polling import wait_until
from s3_server import BUCKET, running_s3

from headway.container.local.control.plane import ControlPlane
from headway.container.local.copies.seat import Seat
from headway.container.local.errors import PlatformError
from headway.container.local.targets import Target, Wish

COMPUTE = {"NumberOfAcceleratorDevicesRequired": 1.0, "MinMemoryRequiredInMb": 1024}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveControlPlane]:
    with running_s3() as s3:
        s3.put(
            {"good.tar.gz": _archive("adapter_config.json"), "empty.tar.gz": _archive("readme"), "model.tar.gz": _archive("config.json")}
        )
        with LiveControlPlane(s3=s3.client) as plane:
            plane.make_config("shared")  # a variant without a model: one ml.g6.12xlarge, of 4 GPUs
            plane.client.create_endpoint(EndpointName="shared", EndpointConfigName="shared")
            plane.wait_in_service("shared")
            yield plane


def test_components_have_copies_of_their_own(live: LiveControlPlane, tmp_path: Path) -> None:
    with _component(live, "own", tmp_path, num_copies=2) as name:
        shown = live.client.describe_inference_component(InferenceComponentName=name)
        assert shown["RuntimeConfig"] == {"DesiredCopyCount": 2, "CurrentCopyCount": 2}
        assert shown["Specification"]["Container"]["DeployedImage"]["SpecifiedImage"] == "pretend"
        target = _lease(live, Wish(component=name))
        assert (target.variant, target.adapter) == ("AllTraffic", None)
        live.client.update_inference_component_runtime_config(InferenceComponentName=name, DesiredRuntimeConfig={"CopyCount": 0})
        assert _settled(live, name)["RuntimeConfig"]["CurrentCopyCount"] == 0
        with pytest.raises(PlatformError, match="Inference Component has no capacity to process this request"):
            _lease(live, Wish(component=name))
        with pytest.raises(PlatformError, match="Inference Component Name header is required"):
            _lease(live, Wish())
        listed = live.client.list_inference_components(EndpointNameEquals="shared")["InferenceComponents"]
        assert [one["InferenceComponentName"] for one in listed] == [name]
        with pytest.raises(ClientError, match="has inference components: delete own first"):
            live.client.delete_endpoint(EndpointName="shared")
    with pytest.raises(ClientError, match="Could not find inference component"):
        live.client.describe_inference_component(InferenceComponentName=name)


def test_a_component_without_room_fails_and_one_that_outgrows_it_stays(live: LiveControlPlane, tmp_path: Path) -> None:
    with _component(live, "roomy", tmp_path, num_copies=1):
        live.client.update_inference_component_runtime_config(InferenceComponentName="roomy", DesiredRuntimeConfig={"CopyCount": 5})
        outgrown = _settled(live, "roomy")
        assert (outgrown["InferenceComponentStatus"], outgrown["RuntimeConfig"]["CurrentCopyCount"]) == ("InService", 1)
        assert (
            "There is not enough hardware resources on the instances for this endpoint to create a copy of the inference component"
            in outgrown["FailureReason"]
        )
        _create(live, "second", {"Container": {"Image": "pretend"}, "ComputeResourceRequirements": {**COMPUTE}}, 4)
        second = _settled(live, "second")
        assert (second["InferenceComponentStatus"], second["RuntimeConfig"]["CurrentCopyCount"]) == ("Failed", 0)
        _delete(live, "second")


def test_a_model_of_the_command_line_keeps_its_words(live: LiveControlPlane) -> None:
    async def make(plane: ControlPlane) -> None:
        plane.make_endpoint("typed", {}, ("serve", "--typed"))

    live.run(make)
    _create(live, "worded", {"ModelName": "typed", "ComputeResourceRequirements": {**COMPUTE}}, 1)
    assert _settled(live, "worded")["InferenceComponentStatus"] == "InService"
    assert any(line.startswith("shared/worded-") and line.endswith("begins with serve --typed") for line in live.said)
    _delete(live, "worded")


def test_adapters_are_given_to_every_copy_and_to_those_that_follow(live: LiveControlPlane, tmp_path: Path) -> None:
    with _component(live, "base", tmp_path, num_copies=2) as base:
        _create(live, "sql", {"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": f"s3://{BUCKET}/good.tar.gz"}})
        assert _settled(live, "sql")["InferenceComponentStatus"] == "InService"
        first = _notes(tmp_path)
        assert [line.split()[:2] for line in first] == [["POST", "sql"]] * 2
        assert len({line.split()[2] for line in first}) == 2
        assert _lease(live, Wish(component="sql")).adapter == "sql"
        with pytest.raises(ClientError, match="has adapters: delete sql first"):
            live.client.delete_inference_component(InferenceComponentName=base)
        psutil.Process(int(first[0].split()[2])).kill()
        wait_until(lambda: len(_notes(tmp_path)) == 3)
        assert _notes(tmp_path)[2].split()[2] not in {line.split()[2] for line in first}
        wait_until(lambda: len(live.run(_copies(base))) == 2)
        _delete(live, "sql")
        assert [line.split()[:2] for line in _notes(tmp_path)[3:]] == [["DELETE", "sql"]] * 2


def test_an_adapter_that_the_container_refuses_fails_with_its_answer(live: LiveControlPlane, tmp_path: Path) -> None:
    with _component(live, "strict", tmp_path) as base:
        for name, url, reason in (
            ("empty", "empty.tar.gz", "answered 400 to POST /adapters"),
            ("missing", "missing.tar.gz", "could not be downloaded"),
        ):
            _create(live, name, {"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": f"s3://{BUCKET}/{url}"}})
            shown = _settled(live, name)
            assert shown["InferenceComponentStatus"] == "Failed"
            assert reason in shown["FailureReason"]
            with pytest.raises(PlatformError, match="is Failed, and takes no requests"):
                _lease(live, Wish(component=name))
            _delete(live, name)


def test_an_update_keeps_the_adapters_and_a_bad_one_keeps_the_copies(live: LiveControlPlane, tmp_path: Path) -> None:
    with _component(live, "changing", tmp_path) as base:
        _create(live, "kept", {"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": f"s3://{BUCKET}/good.tar.gz"}})
        _settled(live, "kept")
        for mode in ("dies", "ready"):
            environ = {"ADAPTERS": str(tmp_path / "adapters"), "MODE": mode}
            container = {"Image": "pretend", "Environment": environ}
            specification = {"Container": container, "ComputeResourceRequirements": COMPUTE}
            live.client.update_inference_component(InferenceComponentName=base, Specification=specification)
            shown = _settled(live, base)
            assert shown["InferenceComponentStatus"] == "InService"
            assert ("weights are of another model" in shown.get("FailureReason", "")) is (mode == "dies")
        assert shown["Specification"]["Container"]["Environment"] == environ
        assert [line.split()[:2] for line in _notes(tmp_path)] == [["POST", "kept"]] * 2
        _delete(live, "kept")


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ({"Container": {"Image": "i"}}, "ComputeResourceRequirements must be given"),
        ({"ComputeResourceRequirements": COMPUTE}, "Exactly one of ModelName and Container.Image"),
        ({"ModelName": "none", "ComputeResourceRequirements": COMPUTE}, "Could not find model"),
        ({"BaseInferenceComponentName": "none", "Container": {"ArtifactUrl": "s3://b/k"}}, "Could not find inference component"),
    ],
)
def test_what_is_refused(live: LiveControlPlane, specification: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClientError, match=sentence):
        _create(live, "refused", specification, 1)


def test_model_data_is_laid_ready_for_a_model(live: LiveControlPlane) -> None:
    import json
    import urllib.request

    live.make_endpoint("data", ModelDataUrl=f"s3://{BUCKET}/model.tar.gz")
    live.wait_in_service("data")
    target = _lease(live, Wish(), "data")
    with urllib.request.urlopen(f"{target.url}/invocations", b"{}", timeout=60) as answer:
        assert json.load(answer)["model"] == ["config.json"]


class _component:
    """A component with copies, InService inside of the block."""

    def __init__(self, live: LiveControlPlane, name: str, tmp_path: Path, num_copies: int = 1) -> None:
        self._live, self._name = live, name
        container = {"Image": "pretend", "Environment": {"ADAPTERS": str(tmp_path / "adapters")}}
        _create(live, name, {"Container": container, "ComputeResourceRequirements": COMPUTE}, num_copies)

    def __enter__(self) -> str:
        shown = _settled(self._live, self._name)
        assert shown["InferenceComponentStatus"] == "InService", shown
        return self._name

    def __exit__(self, *exc: object) -> None:
        _delete(self._live, self._name)


def _create(live: LiveControlPlane, name: str, specification: dict[str, Any], num_copies: int | None = None) -> None:
    runtime = {} if num_copies is None else {"RuntimeConfig": {"CopyCount": num_copies}, "VariantName": "AllTraffic"}
    live.client.create_inference_component(InferenceComponentName=name, EndpointName="shared", Specification=specification, **runtime)


def _settled(live: LiveControlPlane, name: str) -> dict[str, Any]:
    def shown() -> dict[str, Any]:
        described: dict[str, Any] = live.client.describe_inference_component(InferenceComponentName=name)
        return described

    wait_until(lambda: shown()["InferenceComponentStatus"] in ("InService", "Failed"))
    return shown()


def _delete(live: LiveControlPlane, name: str) -> None:
    live.client.delete_inference_component(InferenceComponentName=name)
    wait_until(lambda: not live.client.list_inference_components(NameContains=name)["InferenceComponents"])


def _lease(live: LiveControlPlane, wish: Wish, endpoint: str = "shared") -> Target:
    async def lease(plane: ControlPlane) -> Target:
        with plane.lease(endpoint, wish) as target:
            return target

    return live.run(lease)


def _copies(component: str) -> Any:
    async def copies(plane: ControlPlane) -> list[Seat]:
        return plane.copies_of("shared", component=component)

    return copies


def _notes(tmp_path: Path) -> list[str]:
    return (tmp_path / "adapters").read_text().splitlines()


def _archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"{}"))
    return packed.getvalue()
