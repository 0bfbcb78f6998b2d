"""Which code of the user's answers /ping and /invocations and stands around the routes: options > decorators > names > ours."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.deps import Handler, state_of
from headway.server.api.health import health_of
from headway.server.api.routes.table import ROUTES
from headway.server.api.sagemaker.custom.middleware import WholeAround, formatters
from headway.server.api.sagemaker.custom.registry import MIDDLEWARE, Registry, Role
from headway.server.api.sagemaker.custom.shim import PACKAGE, install_shim
from headway.server.api.user_code.calls import Function, UserFunction, as_handler
from headway.server.api.user_code.middleware import as_middleware
from headway.server.config.sagemaker import SagemakerConfig
from headway.server.errors import ConfigError
from headway.server.user_modules import UserModules, find_file, looked_for

log = logging.getLogger(__name__)

_WHY_NOT = "its decorators are not seen by this server, which brings its own under that name"
_BY_DECORATOR = "--custom-script, by decorator"
_DEFAULT_SCRIPT = "model.py"
_FOUND_BY_NAME = {Role.PING: "custom_sagemaker_ping_handler", Role.INVOKE: "custom_sagemaker_invocation_handler"}
_PATHS = {Role.PING: "/ping", Role.INVOKE: "/invocations"}
_METHODS = {Role.PING: "GET", Role.INVOKE: "POST"}
_OPTIONS = {
    Role.PING: "custom_ping_handler",
    Role.INVOKE: "custom_invocation_handler",
    Role.THROTTLE: "custom_throttle_middleware",
    Role.PRE_POST_PROCESS: "custom_pre_post_process_middleware",
    Role.PRE_PROCESS: "custom_pre_process",
    Role.POST_PROCESS: "custom_post_process",
}
_OURS = {role: route.handler for role, path in _PATHS.items() for route in ROUTES if route.path == path}


@dataclass(frozen=True, slots=True)
class CustomHandlers:
    """``handlers`` by path, in place of ours; ``middleware`` for every route, outermost first."""

    handlers: Mapping[str, Handler]
    middleware: tuple[Middleware, ...]


def load_custom_handlers(config: SagemakerConfig) -> CustomHandlers:
    """Runs the top level of the user's code. Raises ConfigError, with one sentence, for whatever can't be used of it."""
    given = {role: str(value) for role, name in _OPTIONS.items() if (value := getattr(config, name))}
    directory = Path(config.custom_script_directory)
    name = config.custom_script or _DEFAULT_SCRIPT
    script = find_file(name, directory)
    if script is None and (config.custom_script or not given):
        raise ConfigError([f"--enable-custom-handlers: there is no script; looked for {looked_for(name, directory)} (--custom-script)"])
    registry = Registry(_OURS)
    has_shim = install_shim(registry, logging.getLogger("headway.custom"))
    modules = UserModules(directory, script)
    module = modules.load_script()
    routes = {role: _route(role, text) for role, text in given.items() if role in _PATHS and _is_route(text)}
    asked = {role: modules.function(text, _flag(role)) for role, text in given.items() if role not in routes}
    if not has_shim and PACKAGE in sys.modules:
        raise ConfigError([f"--enable-custom-handlers: the code uses {PACKAGE}, which is installed here; uninstall it: {_WHY_NOT}"])
    chosen = {role: choice for role, choice in _functions(asked, registry, module).items() if role not in routes}
    handlers = {role: as_handler(UserFunction(function, "request", source)) for role, (function, source) in chosen.items()} | routes
    if Role.PING in handlers:
        handlers[Role.PING] = _when_ready(handlers[Role.PING])
    middleware = _middleware(asked, registry)
    log.info("Custom handlers: %s", ", ".join(_told(given, chosen, middleware)))
    by_path = {_PATHS[role]: handler for role, handler in handlers.items()}
    return CustomHandlers(by_path, tuple(middleware))


def _flag(role: Role) -> str:
    return f"--{_OPTIONS[role].replace('_', '-')}"


def _is_route(text: str) -> bool:
    return text.startswith("/") and ":" not in text


def _route(role: Role, path: str) -> Handler:
    fitting = {route.path: route.handler for route in ROUTES if _METHODS[role] in route.methods.split() and "{" not in route.path}
    if path not in fitting:
        raise ConfigError([f"{_flag(role)}: {path} is no {_METHODS[role]} route of this server; it has {', '.join(fitting)}"])
    return fitting[path]


def _functions(asked: Mapping[Role, Function], registry: Registry, module: ModuleType | None) -> dict[Role, tuple[Function, str]]:
    """(function, what chose it) of each handler that is the user's."""
    chosen = {}
    for role, name in _FOUND_BY_NAME.items():
        found = getattr(module, name, None)
        if role in asked:
            chosen[role] = (asked[role], _flag(role))
        elif role in registry.chosen:
            chosen[role] = (registry.chosen[role], _BY_DECORATOR)
        elif callable(found):
            chosen[role] = (found, "--custom-script, by its name")
        elif role in registry.defaults:
            chosen[role] = (registry.defaults[role], _BY_DECORATOR)
    return chosen


def _when_ready(handler: Handler) -> Handler:
    """``handler``, asked only while the server can serve: whatever it says, no traffic must come before that or behind it."""

    async def ping(http: Request) -> Response:
        return await (handler if health_of(state_of(http)).is_healthy else _OURS[Role.PING])(http)

    return ping


def _middleware(asked: Mapping[Role, Function], registry: Registry) -> list[Middleware]:
    """Outermost first. What options name wins over what decorators register; formatters are a way to say pre_post_process."""
    found = []
    for role in MIDDLEWARE:
        parts = (role, Role.PRE_PROCESS, Role.POST_PROCESS) if role is Role.PRE_POST_PROCESS else (role,)
        source = asked if any(part in asked for part in parts) else registry.chosen
        names = {part: _flag(part) if source is asked else _BY_DECORATOR for part in parts}
        if role in source:
            found.append(as_middleware(source[role], names[role], WholeAround))
        elif any(part in source for part in parts):
            before, behind = Role.PRE_PROCESS, Role.POST_PROCESS
            found.append(formatters(source.get(before), source.get(behind), (names[before], names[behind])))
    return found


def _told(given: Mapping[Role, str], chosen: Mapping[Role, tuple[Function, str]], middleware: list[Middleware]) -> list[str]:
    """For the log."""
    told = []
    for role, path in _PATHS.items():
        if role in chosen:
            told.append(f"{path} by {getattr(chosen[role][0], '__qualname__', chosen[role][0])} ({chosen[role][1]})")
        else:
            told.append(f"{path} by {given.get(role, 'ours')}")
    return [*told, f"{len(middleware)} middleware"]
