from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError, WaiterError
from control_plane import QUICK, LiveControlPlane
from polling import wait_until

from headway.container.local.autoscaling.resources import Resource
from headway.container.local.control.plane import ControlPlane
from headway.container.local.copies.gpus import Gpus
from headway.container.local.errors import PlatformError
from headway.container.local.targets import Target, Wish
from headway.server.errors import HeadwayError


@pytest.fixture(scope="module")
def live() -> Iterator[LiveControlPlane]:
    with LiveControlPlane() as plane:
        yield plane


def _targets(live: LiveControlPlane, endpoint: str, wish: Wish = Wish()) -> Target:
    async def lease(plane: ControlPlane) -> Target:
        with plane.lease(endpoint, wish) as target:
            return target

    return live.run(lease)


def _facts(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/invocations", b"{}", timeout=60) as answer:
        facts: dict[str, Any] = json.load(answer)
    return facts


def _refusal(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    return str(refused.value.response["Error"]["Message"])


def test_an_endpoint_lives_and_leaves_nothing(live: LiveControlPlane) -> None:
    live.make_endpoint("life", {"SM_VLLM_MAX_MODEL_LEN": "64"}, num=2)
    first = live.client.describe_endpoint(EndpointName="life")
    assert first["EndpointStatus"] == "Creating"
    described = live.wait_in_service("life")
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    urls = {seat.copy.url for seat in live.run(_copies("life")) if seat.copy}
    assert len(urls) == 2
    for url in urls:
        assert {_targets(live, "life", Wish(full=frozenset({url}))).url for _ in range(10)} == urls - {url}
    assert _targets(live, "life", Wish(full=frozenset(urls))).url in urls
    facts = [_facts(url) for url in urls]
    assert {one["environ"]["SM_VLLM_MAX_MODEL_LEN"] for one in facts} == {"64"}
    live.client.delete_endpoint(EndpointName="life")
    live.wait_deleted("life")
    assert not any(psutil.pid_exists(one["pid"]) for one in facts)
    assert "Could not find endpoint" in _refusal(live.client.describe_endpoint, EndpointName="life")


def test_a_start_that_fails_is_told_with_the_last_log_line(live: LiveControlPlane) -> None:
    live.make_endpoint("dies", {"MODE": "dies"})
    with pytest.raises(WaiterError):
        live.wait_in_service("dies")
    reason = live.client.describe_endpoint(EndpointName="dies")["FailureReason"]
    assert reason.startswith(
        "The primary container for production variant AllTraffic did not pass the ping health check. It exited with status 3."
    )
    assert '"ValueError: the weights are of another model"' in reason
    assert Path(reason.rpartition("All of it: ")[2]).read_text().splitlines()[0] == "begins with serve"
    with pytest.raises(PlatformError, match=r"of account 123456789012 not found\. It is Failed"):
        _targets(live, "dies")
    assert "can only be deleted" in _refusal(live.client.update_endpoint, EndpointName="dies", EndpointConfigName="dies")
    live.client.delete_endpoint(EndpointName="dies")
    live.wait_deleted("dies")


def test_a_container_that_is_never_ready_fails_at_the_end_of_the_window(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with LiveControlPlane(pace=dataclasses.replace(QUICK, start_window_s=3.0)) as live:
        live.make_endpoint("never", {"MODE": "never", "PIDS": str(pids)})
        with pytest.raises(WaiterError):
            live.wait_in_service("never")
        reason = live.client.describe_endpoint(EndpointName="never")["FailureReason"]
        assert "No lasting 200 within 3 s" in reason
        assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())


def test_a_copy_that_dies_or_fails_its_pings_is_replaced(live: LiveControlPlane, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    live.make_endpoint("replaced", {"BAD_PING": str(bad)})
    live.wait_in_service("replaced")
    first = _facts(_targets(live, "replaced").url)["pid"]
    psutil.Process(first).kill()
    second = _next_pid(live, "replaced", first)
    wait_until(lambda: any("exited with status 137" in line for line in live.said))
    bad.touch()
    wait_until(lambda: any("failed 2 pings in a row" in line for line in live.said))
    bad.unlink()
    assert _next_pid(live, "replaced", second) not in (first, second)
    assert live.client.describe_endpoint(EndpointName="replaced")["EndpointStatus"] == "InService"


def test_an_update_takes_the_place_or_is_rolled_back(live: LiveControlPlane) -> None:
    live.make_endpoint("updated", {"VERSION": "1"})
    live.wait_in_service("updated")
    for name, environ in (("updated-bad", {"MODE": "dies"}), ("updated-good", {"VERSION": "2"})):
        live.make_model(name, environ)
        live.make_config(name, name)
    live.client.update_endpoint(EndpointName="updated", EndpointConfigName="updated-bad")
    in_progress = f'Cannot update in-progress endpoint "{live.client.describe_endpoint(EndpointName="updated")["EndpointArn"]}".'
    assert _refusal(live.client.update_endpoint, EndpointName="updated", EndpointConfigName="updated-good").endswith(in_progress)
    assert "in-progress" in _refusal(live.client.delete_endpoint, EndpointName="updated")
    rolled_back = live.wait_in_service("updated")
    assert "the weights are of another model" in rolled_back["FailureReason"]
    assert rolled_back["EndpointConfigName"] == "updated"
    assert _facts(_targets(live, "updated").url)["environ"]["VERSION"] == "1"
    live.client.update_endpoint(EndpointName="updated", EndpointConfigName="updated-good")
    done = live.wait_in_service("updated")
    assert (done["EndpointConfigName"], "FailureReason" in done) == ("updated-good", False)
    assert _facts(_targets(live, "updated").url)["environ"]["VERSION"] == "2"


def test_retained_properties_survive_an_update(live: LiveControlPlane) -> None:
    live.make_endpoint("retained")
    live.wait_in_service("retained")
    change = {"VariantName": "AllTraffic", "DesiredInstanceCount": 2, "DesiredWeight": 3.0}
    live.client.update_endpoint_weights_and_capacities(EndpointName="retained", DesiredWeightsAndCapacities=[change])
    live.wait_in_service("retained")
    excluded = [{"VariantPropertyType": "DesiredWeight"}]
    live.client.update_endpoint(
        EndpointName="retained", EndpointConfigName="retained", RetainAllVariantProperties=True, ExcludeRetainedVariantProperties=excluded
    )
    variant = live.wait_in_service("retained")["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (2, 1.0)


def test_scaling_drains_what_it_takes_away(live: LiveControlPlane) -> None:
    live.make_endpoint("scaled")
    live.wait_in_service("scaled")
    live.run(_scale("scaled", 2))
    assert live.wait_in_service("scaled")["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    with _open_request(live, "scaled") as target:
        change = {"VariantName": "AllTraffic", "DesiredInstanceCount": 0}
        live.client.update_endpoint_weights_and_capacities(EndpointName="scaled", DesiredWeightsAndCapacities=[change])
        assert live.client.describe_endpoint(EndpointName="scaled")["EndpointStatus"] == "Updating"
        assert _facts(target.url)  # its copy goes on while the request is open
    assert live.wait_in_service("scaled")["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    with pytest.raises(PlatformError, match="No copy"):
        _targets(live, "scaled")


def test_a_model_runs_alone_for_batch_transform(live: LiveControlPlane) -> None:
    live.make_model("alone", {"A": "1", "B": "1"})
    live.make_model("alone-dies", {"MODE": "dies"})

    async def environ(plane: ControlPlane) -> dict[str, str]:
        async with plane.model_copies.running("alone", {"B": "2"}, "job", "ml.m5.large") as url:
            environ: dict[str, str] = (await asyncio.to_thread(_facts, url))["environ"]
            return environ

    async def failure(plane: ControlPlane) -> str:
        with pytest.raises(HeadwayError) as failed:
            async with plane.model_copies.running("alone-dies", {}, "other", "ml.m5.large"):
                pass
        return str(failed.value)

    assert {"A": "1", "B": "2"}.items() <= live.run(environ).items()
    assert '"ValueError: the weights are of another model"' in live.run(failure)


def test_a_model_that_runs_alone_gets_the_gpus_of_its_instance_type() -> None:
    async def visible(plane: ControlPlane) -> str | None:
        async with plane.model_copies.running("m", {}, "job", "ml.g6.12xlarge") as url:
            environ: dict[str, str] = (await asyncio.to_thread(_facts, url))["environ"]
            return environ.get("CUDA_VISIBLE_DEVICES")

    with LiveControlPlane(gpus=Gpus(["0", "1", "2", "3", "4"])) as plane:
        plane.make_model("m")
        assert plane.run(visible) == "0,1,2,3"


def test_a_copy_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with LiveControlPlane(pace=dataclasses.replace(QUICK, stop_patience_s=0.3)) as live:
        for mode in ("stubborn", "child"):
            live.make_endpoint(mode, {"MODE": mode, "PIDS": str(pids)})
        for mode in ("stubborn", "child"):
            live.wait_in_service(mode)
        live.client.delete_endpoint(EndpointName="stubborn")
        live.wait_deleted("stubborn")
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 3
    assert not any(psutil.pid_exists(pid) for pid in started)  # the end of the runtime took the other endpoint's


def test_variants_share_requests_by_weight_and_by_name(live: LiveControlPlane) -> None:
    for name in ("a", "b"):
        live.make_model(f"weighted-{name}", {"NAME": name})
    variants = [
        {
            "VariantName": name,
            "ModelName": f"weighted-{name}",
            "InstanceType": "ml.g5.xlarge",
            "InitialInstanceCount": 1,
            "InitialVariantWeight": weight,
        }
        for name, weight in (("a", 1.0), ("b", 0.0))
    ]
    live.client.create_endpoint_config(EndpointConfigName="weighted", ProductionVariants=variants)
    live.client.create_endpoint(EndpointName="weighted", EndpointConfigName="weighted")
    live.wait_in_service("weighted")
    assert {_targets(live, "weighted").variant for _ in range(20)} == {"a"}
    assert _targets(live, "weighted", Wish(variant="b")).variant == "b"
    with pytest.raises(PlatformError, match="Variant c not found"):
        _targets(live, "weighted", Wish(variant="c"))
    change = [{"VariantName": "a", "DesiredWeight": 0.0}, {"VariantName": "b", "DesiredWeight": 1.0}]
    live.client.update_endpoint_weights_and_capacities(EndpointName="weighted", DesiredWeightsAndCapacities=change)
    assert {_targets(live, "weighted").variant for _ in range(20)} == {"b"}


def test_sessions_stick_and_the_least_busy_copy_is_taken(live: LiveControlPlane) -> None:
    live.make_model("sticky")
    live.make_config("sticky", "sticky", 2, RoutingConfig={"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"})
    live.client.create_endpoint(EndpointName="sticky", EndpointConfigName="sticky")
    live.wait_in_service("sticky")
    with _open_request(live, "sticky") as busy:
        assert {_targets(live, "sticky").url for _ in range(10)}.isdisjoint({busy.url})

        async def open_session(plane: ControlPlane) -> None:
            plane.open_session("sticky", "s1", busy)

        live.run(open_session)
        assert {_targets(live, "sticky", Wish(session="s1")).url for _ in range(10)} == {busy.url}


def _copies(endpoint: str) -> Any:
    async def copies(plane: ControlPlane) -> Any:
        return plane.copies_of(endpoint)

    return copies


def _scale(endpoint: str, num: int) -> Any:
    async def scale(plane: ControlPlane) -> None:
        resource = Resource(endpoint, "AllTraffic")
        await plane.scalables.scale(resource, num)
        assert plane.scalables.num_desired(resource) == len(plane.scalables.urls(resource)) == num

    return scale


def _next_pid(live: LiveControlPlane, endpoint: str, last: int) -> int:
    """That of the copy that follows the one with process id ``last``."""

    def pid() -> int | None:
        with contextlib.suppress(PlatformError, OSError):
            return int(_facts(_targets(live, endpoint).url)["pid"])
        return None

    wait_until(lambda: pid() not in (None, last))
    found = pid()
    assert found is not None
    return found


@contextlib.contextmanager
def _open_request(live: LiveControlPlane, endpoint: str) -> Iterator[Target]:
    """A lease that is held by the loop of the plane inside of the block."""
    begun, ended = threading.Event(), asyncio.Event()
    held: list[Target] = []

    async def hold(plane: ControlPlane) -> None:
        with plane.lease(endpoint, Wish()) as target:
            held.append(target)
            begun.set()
            await ended.wait()

    async def end(plane: ControlPlane) -> None:
        ended.set()

    thread = threading.Thread(target=live.run, args=(hold,))
    thread.start()
    assert begun.wait(60)
    try:
        yield held[0]
    finally:
        live.run(end)
        thread.join()
