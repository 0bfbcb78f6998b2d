"""Python starts with this where its folder is on PYTHONPATH: torch then tells whoever asks that the processor ends at AVX2.

For `benchmarks/compare.py --as-avx2`: what a machine without AVX-512 would see of each server, on one that has it. Libraries that look for
themselves are told by environment variables (``peers.AVX2``).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "torch.cpu"
_BEYOND = ("avx512", "avx10", "amx")


class _Told(importlib.abc.MetaPathFinder):
    """Finds torch.cpu as ever, and changes what it says once it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name in dir(module):
            if name.startswith("_is_") and any(beyond in name for beyond in _BEYOND):
                setattr(module, name, lambda: False)
        capabilities = module.__dict__["get_capabilities"]

        def capped() -> dict[str, object]:
            return {name: False if name.startswith(_BEYOND) else has for name, has in capabilities().items()}

        module.__dict__["get_capabilities"] = capped


sys.meta_path.insert(0, _Told())
