"""Builds the image out of a checkout, with its own `make image`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from headway.server.errors import ConfigError, HeadwayError

VARIANTS = {"cpu": "headway", "cuda": "headway:cuda"}  # and the names that their images get


def build(checkout: Path, variant: str, environ: Mapping[str, str]) -> None:
    """Raises ConfigError where there is nothing to build from. The output goes to stderr, as it comes."""
    if not all((checkout / name).is_file() for name in ("Makefile", "Dockerfile", "container/image/inventory.py")):
        raise ConfigError([f"--checkout {checkout} is no checkout of Headway; name one, or an image that exists with --image"])
    if shutil.which("make", path=environ.get("PATH")) is None:
        raise HeadwayError("there is no `make` on this machine, which builds the image; install it, or name an image with --image")
    # BuildKit, which the Dockerfile needs, can't be reached through the engine's API but by docker's own client.
    command = ["make", "--no-print-directory", "image", f"VARIANT={variant}", f"IMAGE={VARIANTS[variant]}"]
    done = subprocess.run(command, cwd=checkout, env=dict(environ), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode:
        raise HeadwayError(f"`{' '.join(command)}` in {checkout} ended with status {done.returncode}; its last lines say why")


def is_dirty(checkout: Path, environ: Mapping[str, str]) -> bool:
    """Whether the checkout's code is that of no commit. Without git nobody knows, and nothing is said."""
    command = ["git", "status", "--porcelain"]
    try:
        done = subprocess.run(command, cwd=checkout, env=dict(environ), capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
