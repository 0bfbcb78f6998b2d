from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from control_plane import PRETEND, LiveControlPlane
from polling import wait_until

from headway.container.instances import find_instance
from headway.container.local.control.placement import Need, have_room
from headway.container.local.control.plane import ControlPlane
from headway.container.local.copies.base import CopyFailed, CopySpec
from headway.container.local.copies.gpus import Gpus
from headway.container.local.copies.log import CopyLog
from headway.container.local.copies.process import ProcessStarter
from headway.container.local.faults import read_faults
from headway.container.local.targets import Wish

GUARD = (sys.executable, "-m", "headway.container.local.copies.guard")


def test_a_runtime_that_is_killed_takes_its_copies_with_it(tmp_path: Path) -> None:
    """Here the runtime is whoever holds the other end of the guard's standard input."""
    pids = tmp_path / "pids"
    environ = {**os.environ, "MODE": "child", "PIDS": str(pids), "SAGEMAKER_BIND_TO_PORT": "0"}
    guard = subprocess.Popen([*GUARD, *PRETEND, "serve"], stdin=subprocess.PIPE, env=environ, start_new_session=True)
    wait_until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
    assert guard.stdin is not None
    guard.stdin.close()
    assert guard.wait(60) == 128 + signal.SIGKILL
    assert not any(_is_alive(int(pid)) for pid in pids.read_text().split())


def test_the_guard_exits_as_its_command_does() -> None:
    for program, status in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 15)", 143)):
        with subprocess.Popen([*GUARD, sys.executable, "-c", program], stdin=subprocess.PIPE) as guard:
            assert guard.wait(60) == status


def test_a_process_gets_its_environment_and_none_of_the_machines_options(tmp_path: Path) -> None:
    machine = {**os.environ, "SM_VLLM_MODEL": "of the machine", "HF_TOKEN": "secret", "HF_HOME": "/cache", "OTHER": "1"}
    program = (sys.executable, "-c", "import os; [print(f'{k}={v}') for k, v in sorted(os.environ.items())]")

    async def log_of(spec: CopySpec) -> str:
        log = CopyLog(tmp_path / "copy.log")
        copy = await ProcessStarter(machine, program).start(spec, ["1", "3"], log)
        assert await copy.ended() == "exited with status 0"
        await copy.stop(1.0)
        log.close()
        return log.path.read_text()

    lines = asyncio.run(log_of(CopySpec(None, {"SM_VLLM_SEED": "5"}, model_directory=tmp_path))).splitlines()
    assert {"SM_VLLM_SEED=5", f"SAGEMAKER_MODEL_PATH={tmp_path}", "HF_HOME=/cache", "OTHER=1", "CUDA_VISIBLE_DEVICES=1,3"} <= set(lines)
    assert not any(line.startswith(("SM_VLLM_MODEL=", "HF_TOKEN=")) for line in lines)


def test_a_fault_kills_the_copy_that_takes_the_call() -> None:
    with LiveControlPlane(faults=read_faults("death=1")) as live:
        live.make_endpoint("fatal")
        live.wait_in_service("fatal")

        async def call(plane: ControlPlane) -> None:
            with plane.lease("fatal", Wish()):
                pass

        live.run(call)
        wait_until(lambda: any("as --faults asked" in line for line in live.said))


def test_pings_that_are_too_slow_keep_an_endpoint_from_service() -> None:
    with LiveControlPlane(faults=read_faults("slow-ping=3s")) as live:
        live.make_endpoint("slow")
        assert live.client.describe_endpoint(EndpointName="slow")["EndpointStatus"] == "Creating"
        wait_until(lambda: any("begins with serve" in line for line in live.said))
        assert live.run(_num_in_service) == 0


def _is_alive(pid: int) -> bool:
    """An orphan's zombie is whoever's that adopted it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def _num_in_service(plane: ControlPlane) -> int:
    return len(plane.copies_of("slow"))


def test_a_log_is_bounded_and_its_last_line_is_safe_to_show(tmp_path: Path) -> None:
    echoed: list[str] = []
    log = CopyLog(tmp_path / "logs" / "copy.log", echoed.append, max_bytes=100)
    for number in range(50):
        log.write(f"line {number}\n".encode())
    log.write(b"half a \x1b[31mline")
    assert log.last_line() == "half a \\x1b[31mline"
    log.close()
    assert echoed[0] == "line 0"
    assert echoed[-1] == log.last_line()
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 100


def test_gpus_are_lent_least_used_first() -> None:
    gpus = Gpus(["0", "1", "2"])
    with gpus.lend(2) as first:
        assert first == ["0", "1"]
        with gpus.lend(1) as second, gpus.lend(1) as third:
            assert (second, third) == (["2"], ["0"])
    with pytest.raises(CopyFailed, match="takes 4 GPUs, and the runtime was given 3"), gpus.lend(4):
        pass


def test_room_is_counted_by_instance() -> None:
    instance = find_instance("ml.g6.12xlarge")
    three, half = Need(3, 0, 2**30), Need(0, 24, 96 * 2**30)
    assert have_room([three, three], instance, 2)
    assert not have_room([three, three], instance, 1)
    assert not have_room([three, three, Need(2, 0, 2**30)], instance, 2)  # 8 GPUs in all, but no instance with 2 left
    assert have_room([half, half], instance, 1)
    assert not have_room([half, half, Need(0, 0.25, 2**30)], instance, 1)


def test_a_copy_goes_on_where_its_log_can_not_be_kept(tmp_path: Path) -> None:
    echoed: list[str] = []
    (tmp_path / "file").touch()
    log = CopyLog(tmp_path / "file" / "copy.log", echoed.append)
    assert "its log is kept no further: " in echoed[0]
    log.write(b"ValueError: no such model\n")
    log.close()
    assert log.last_line() == echoed[1] == "ValueError: no such model"
    full = CopyLog(Path("/dev/full"), echoed.append)
    full.write(b"one\n")
    full.write(b"two\n")
    full.close()
    assert "No space left on device" in echoed[2]
    assert echoed[3:] == ["one", "two"]


def test_a_progress_bar_is_shown_as_it_was_seen_last(tmp_path: Path) -> None:
    echoed: list[str] = []
    log = CopyLog(tmp_path / "copy.log", echoed.append)
    log.write(b"0%\r50%")
    assert log.last_line() == "50%"
    log.write(b"\r100%\r\nand a line\r\n\x00\xff\x1b[2Jbinary without an end")
    assert echoed == ["100%", "and a line"]
    assert log.last_line() == "\\x00\ufffd\\x1b[2Jbinary without an end"
    log.close()
