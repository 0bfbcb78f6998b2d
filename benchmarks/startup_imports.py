"""What imports cost: `python -X importtime` of what a process imports, summed over the packages at the top."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)")


@dataclass(frozen=True, slots=True)
class Imports:
    """``packages``: seconds in modules of each package itself, the largest first; what they import counts for its own package."""

    module: str
    total_s: float
    packages: dict[str, float]

    def line(self, num_shown: int = 8) -> str:
        shown = list(self.packages.items())[:num_shown]
        rest = self.total_s - sum(seconds for _, seconds in shown)
        return ", ".join(f"{name} {seconds:.2f}" for name, seconds in shown) + f", others {rest:.2f}"


def measure(module: str) -> Imports:
    """The second of two imports: the first has the files read into the page cache."""
    argv = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    for _ in range(2):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return summed(module, done.stderr)


def summed(module: str, report: str) -> Imports:
    """From the report that Python writes to stderr: microseconds of a module itself, then with what it imports."""
    packages: Counter[str] = Counter()
    for itself, _, name in _LINE.findall(report):
        packages[name.partition(".")[0]] += int(itself) / 1e6
    return Imports(module, sum(packages.values()), dict(packages.most_common()))
