"""What was compiled once is found again: by the next start, and by an image that has it in a read-only layer. No GPU needed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[1] / "support" / "compile_shipped.py"


def compiled(capability: int, *, cache: Path, shipped: Path) -> tuple[dict[str, bool], str]:
    """(kernel -> whether it was found, what is said of them) of a process of its own: a start."""
    # In this process the kernels were imported for the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONWARNINGS": "ignore"}
    environment["TRITON_CACHE_MANAGER"] = "headway.kernels.gpu.shipped_cache:ShippedCacheManager"
    command = [sys.executable, str(SCRIPT), str(capability), str(shipped)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    if "ptxas" in done.stderr:
        pytest.skip("ptxas, which Triton brings along, does not run here")
    assert done.returncode == 0, done.stderr[-4000:]
    found, told = json.loads(done.stdout)
    return found, told


def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    first, moved, none = tmp_path / "first", tmp_path / "moved", tmp_path / "none"
    anew = ({"norm": False, "silu": False}, "0 of the image's, 0 kept from an earlier start, 2 compiled")
    assert compiled(90, cache=first, shipped=none) == anew
    assert compiled(90, cache=first, shipped=none) == (
        {"norm": True, "silu": True},
        "0 of the image's, 2 kept from an earlier start, 0 compiled",
    )

    shutil.move(first, moved)  # as a layer of an image has it
    fresh = tmp_path / "fresh"
    assert compiled(90, cache=fresh, shipped=moved) == (
        {"norm": True, "silu": True},
        "2 of the image's, 0 kept from an earlier start, 0 compiled",
    )
    assert not list(fresh.rglob("*.cubin")), "nothing was compiled"
    assert compiled(80, cache=fresh, shipped=moved) == anew, "another target is another key"

    for note in moved.rglob("__grp__rms_norm*"):
        note.write_text("{")
    for cubin in moved.rglob("gated_kernel.cubin"):
        cubin.unlink()
    assert compiled(90, cache=tmp_path / "mended", shipped=moved) == anew, "what is damaged is compiled anew"


@pytest.mark.parametrize("closed", ["folder", "file"])
def test_what_this_user_can_not_read_is_compiled_anew(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server's own folder is, mode 0700, that was copied into an image which then runs as another user."""
    from headway.kernels.gpu import shipped_cache

    shipped = tmp_path / "shipped"
    (shipped / "key").mkdir(parents=True)
    (shipped / "key" / "kernel.cubin").write_bytes(b"code")
    (shipped / "key" / "__grp__kernel.json").write_text(json.dumps({"child_paths": {"kernel.cubin": "/elsewhere/kernel.cubin"}}))
    monkeypatch.setattr(shipped_cache, "SHIPPED", shipped)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    manager = shipped_cache.ShippedCacheManager("key")
    assert manager.get_group("kernel.json") == {"kernel.cubin": str(shipped / "key" / "kernel.cubin")}

    def is_file(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    if closed == "folder":
        monkeypatch.setattr(Path, "is_file", is_file)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert manager.get_group("kernel.json") is None
    assert manager.get_file("kernel.cubin") is None
    sentence = f"The image's compiled kernels in {shipped} can't be read by this user, and are compiled anew: chmod -R a+rX them"
    assert caplog.messages == [sentence], "it is said once"


@pytest.mark.parametrize("refused", ["making", "writing"])
def test_a_disk_that_refuses_does_not_end_a_compilation(refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.cache import FileCacheManager

    from headway.kernels.gpu.shipped_cache import ShippedCacheManager

    put = FileCacheManager.put

    def full(self: FileCacheManager, data: object, filename: str, binary: bool = True) -> str:
        if self.cache_dir.startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path: str = put(self, data, filename, binary)
        return path

    monkeypatch.setattr(FileCacheManager, "put", full)
    if refused == "making":
        (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    manager = ShippedCacheManager("key")
    path = manager.put(b"code", "kernel.cubin")
    manager.put_group("kernel.json", {"kernel.cubin": path})
    assert Path(path).read_bytes() == b"code"
    assert manager.get_group("kernel.json") == {"kernel.cubin": path}
