"""The path of a request below --root-path."""

from __future__ import annotations

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path that routes are found by. A root path may end with a slash: servers put it before the path as it is.

    The same rule as Starlette's router has: who guards a path must mean the one that is served.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest or "/" if rest[:1] in ("", "/") else path
