"""A stand-in for the package `model_hosting_container_standards`, which custom handlers import: only its decorators, on our Registry.

The package itself would set the root logger to ERROR, and its handlers are not used with the FastAPI that we run on.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

from headway.server.api.sagemaker.custom.registry import Registry, Role

PACKAGE = "model_hosting_container_standards"


class ShimModule(ModuleType):
    """Says what is missing where a script asks for more than there is."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        offered = ", ".join(sorted(key for key in vars(self) if not key.startswith("_")))
        raise AttributeError(f"Headway's stand-in for {self.__name__} has no {name}; it has {offered}")


def install_shim(registry: Registry, log: logging.Logger) -> bool:
    """Makes the package importable, with decorators that fill ``registry``. False if the real one is installed: it is left alone."""
    if not isinstance(sys.modules.get(PACKAGE), ShimModule) and importlib.util.find_spec(PACKAGE) is not None:
        return False
    for path, names in _contents(registry, log).items():
        name = f"{PACKAGE}.{path}" if path else PACKAGE
        module = ShimModule(name)
        module.__path__ = []  # a package, so that what it has not is reported as a missing module of it
        vars(module).update(names)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return True


def _contents(registry: Registry, log: logging.Logger) -> dict[str, dict[str, Any]]:
    """Names by module, parents first."""
    middleware = {
        "custom_middleware": registry.choose_middleware,
        "input_formatter": registry.choose(Role.PRE_PROCESS),
        "output_formatter": registry.choose(Role.POST_PROCESS),
    }
    handlers = {
        "custom_ping_handler": registry.choose(Role.PING),
        "custom_invocation_handler": registry.choose(Role.INVOKE),
        "register_ping_handler": registry.register_default(Role.PING),
        "register_invocation_handler": registry.register_default(Role.INVOKE),
    }
    return {
        "": {},
        "logging_config": {"logger": log},
        "common": {},
        "common.handler": {"handler_registry": registry},
        "common.handler.registry": {"handler_registry": registry},
        "common.fastapi": {},
        "common.fastapi.middleware": middleware,
        "sagemaker": {**handlers, **middleware},
    }
