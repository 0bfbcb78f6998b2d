"""A process namespace of its own, in which a command is process 1, as in a container."""

from __future__ import annotations

import subprocess

import pytest

# As a prefix of a command.
IN_NAMESPACE = ("unshare", "-pf", "--kill-child", "--mount-proc")


def _can_be_made() -> bool:
    return subprocess.run([*IN_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _can_be_made(), reason="needs the right to make a process namespace")
