"""What a script with custom handlers has registered through the decorators of the shim."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


class Role(enum.StrEnum):
    """What a function of the script can be. The values are those that scripts use."""

    PING = "ping"
    INVOKE = "invoke"
    THROTTLE = "throttle"
    PRE_POST_PROCESS = "pre_post_process"
    PRE_PROCESS = "pre_process"
    POST_PROCESS = "post_process"


MIDDLEWARE = (Role.THROTTLE, Role.PRE_POST_PROCESS)


class Registry:
    """Filled while the script runs its top level. ``ours`` are this server's own handlers, for scripts that call them."""

    def __init__(self, ours: Mapping[Role, Callable[..., Any]]) -> None:
        self.chosen: dict[Role, Callable[..., Any]] = {}  # by custom_* and the formatters
        self.defaults: dict[Role, Callable[..., Any]] = {}  # by register_*: weaker than a function found by its name
        self._ours = ours

    def choose(self, role: Role) -> Callable[[_F], _F]:
        """A decorator. A handler may be chosen again, as scripts that are run twice do; of the others there is one each."""

        def register(function: _F) -> _F:
            if role in self.chosen and role not in (Role.PING, Role.INVOKE):
                raise ValueError(f"{role} is registered already, as {_name(self.chosen[role])}; there can be one only")
            self.chosen[role] = function
            return function

        return register

    def choose_middleware(self, name: str) -> Callable[[_F], _F]:
        if name not in MIDDLEWARE:
            raise ValueError(f"custom_middleware takes {' or '.join(MIDDLEWARE)}, got {name!r}")
        return self.choose(Role(name))

    def register_default(self, role: Role) -> Callable[[_F | None], Any]:
        """A decorator that may be written with and without brackets."""

        def register(function: _F | None = None) -> Any:
            if function is None:
                return register
            self.defaults[role] = function
            return function

        return register

    def get_framework_default(self, handler_type: str) -> Callable[..., Any] | None:
        """This server's own handler: "ping" or "invoke"."""
        return self._ours.get(Role(handler_type)) if handler_type in list(Role) else None


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
