"""Orphans of a process 1, in a namespace of its own, where the system allows to make one."""

from __future__ import annotations

import subprocess
import sys

from namespaces import IN_NAMESPACE, needs_namespaces

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


@needs_namespaces
def test_orphans_are_collected_and_no_status_is_stolen() -> None:
    done = subprocess.run([*IN_NAMESPACE, sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
