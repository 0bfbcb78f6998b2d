"""Tables of tiles are part of the package: what setuptools makes of pyproject.toml holds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_built_package_holds_the_tables(tmp_path: Path) -> None:
    """A package of the same layout, with one table more: links under src, folders without __init__.py."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "headway"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "src/headway/__init__.py", package)
    (tmp_path / "kernels").mkdir()
    shutil.copy(ROOT / "kernels/tuned.py", tmp_path / "kernels")
    tables = tmp_path / "kernels" / "tables"
    tables.mkdir()
    (tables / "a_chip.json").write_text("{}")
    (package / "kernels").symlink_to("../../kernels")
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "built/headway/kernels/tuned.py").exists()
    assert (tmp_path / "built/headway/kernels/tables/a_chip.json").exists()
