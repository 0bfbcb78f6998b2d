from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from headway.server.launch import _keep_compiled_kernels


def test_compiled_kernels_are_kept_with_the_other_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "to be put back")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "to be put back")
    del os.environ["TRITON_CACHE_DIR"], os.environ["TRITON_CACHE_MANAGER"]
    _keep_compiled_kernels(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "triton")
    module, name = os.environ["TRITON_CACHE_MANAGER"].split(":")
    assert hasattr(importlib.import_module(module), name)


def test_a_users_own_choice_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "theirs:Cache")
    _keep_compiled_kernels(tmp_path)
    assert (os.environ["TRITON_CACHE_DIR"], os.environ["TRITON_CACHE_MANAGER"]) == ("/elsewhere", "theirs:Cache")
