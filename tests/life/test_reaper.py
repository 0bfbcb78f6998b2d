"""Orphans of a process 1, in a namespace of its own, where the system allows to make one."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, subprocess, sys, time
from headway.server.reaper import Reaper

assert os.getpid() == 1
# A child whose child outlives it, and then ends as ours.
subprocess.run(["sh", "-c", "sleep 0.1 & exit 0"], check=True)
ours = subprocess.Popen(["sh", "-c", "exit 7"])
waited = subprocess.Popen(["sh", "-c", "exit 5"])
reaper = Reaper(lambda pid: pid == ours.pid)

def states():
    return [open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[0] for entry in os.listdir("/proc") if entry.isdigit()]

while states().count("Z") < 3:
    time.sleep(0.01)
first = reaper.look()           # nothing is taken at first sight: somebody may be about to wait for it
assert first == [], first
assert waited.wait() == 5       # as such a somebody does
second = reaper.look()
assert len(second) == 1 and ours.pid not in second, second
assert reaper.look() == []
assert ours.wait() == 7         # its status was not stolen
assert "Z" not in states()
"""


def _can_make_namespaces() -> bool:
    return subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_make_namespaces(), reason="needs the right to make a process namespace")
def test_orphans_are_collected_and_no_status_is_stolen() -> None:
    command = ["unshare", "-pf", "--mount-proc", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
