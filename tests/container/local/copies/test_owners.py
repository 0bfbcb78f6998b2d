"""Whose containers a runtime sweeps: those of its own dead ones, and nobody else's. And who reaches copies on this machine's network."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from headway.container.docker_engine import _is_alive, _place, owner
from headway.container.local.copies.base import CopySpec
from headway.container.local.copies.log import CopyLog
from headway.container.local.copies.process import ProcessStarter

_NOBODY = 2**22 + 1  # above the kernel's largest process id


def test_a_dead_runtime_of_ours_is_found() -> None:
    assert not _is_alive(f"{_place()}/{_NOBODY}@1.00")
    assert not _is_alive(f"{_place()}/{os.getpid()}@{psutil.Process().create_time() - 3600:.2f}")


def test_ours_is_alive_after_the_clock_was_set() -> None:
    assert _is_alive(owner(os.getpid()))
    assert _is_alive(f"{_place()}/{os.getpid()}@{psutil.Process().create_time() + 30:.2f}")


@pytest.mark.parametrize("label", [f"other/pid:[1]/0/{_NOBODY}@1.00", f"{_NOBODY}@1.00", "", "somebody's", f"{_place()}/x@1"])
def test_what_is_of_elsewhere_is_left_alone(label: str) -> None:
    assert _is_alive(label)


@pytest.mark.parametrize(("given", "host"), [({}, "127.0.0.1"), ({"SM_VLLM_HOST": "0.0.0.0"}, "0.0.0.0")])
def test_a_process_listens_on_loopback_unless_it_is_told(tmp_path: Path, given: dict[str, str], host: str) -> None:
    async def printed() -> str:
        log = CopyLog(tmp_path / "log")
        starter = ProcessStarter(os.environ, (sys.executable, "-c", "import os; print(os.environ['SM_VLLM_HOST'])"))
        copy = await starter.start(CopySpec(None, given), (), log)
        await copy.ended()
        await copy.stop(0)
        log.close()
        return log.path.read_text()

    assert asyncio.run(printed()).strip() == host
