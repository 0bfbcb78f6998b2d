"""A user's Python code by path or by name: loaded once, with one sentence for whatever keeps it from loading."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from headway.server.errors import ConfigError
from headway.server.words import cut

log = logging.getLogger(__name__)

SCRIPT_MODULE = "model"  # what specifications call the script, whatever its file's name
_SPECIFICATION = re.compile(r"([^\s:]+):([^\s:]+)")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_MAX_SHOWN = 300


class UserModules:
    """``script`` is None where there is none. Files are looked for in ``directory``, then in its code/."""

    def __init__(self, directory: Path, script: Path | None) -> None:
        self._directory = directory
        self._script = script
        self._files: dict[Path, ModuleType] = {}

    def load_script(self) -> ModuleType | None:
        return self._load_file(self._script, "--custom-script") if self._script else None

    def function(self, specification: str, option: str) -> Callable[..., Any]:
        """What ``specification`` names: file.py:name, model:name or package.module:name; the name may have dots.
        Raises ConfigError that names ``option``."""
        match = _SPECIFICATION.fullmatch(specification.strip())
        if match is None:
            raise ConfigError([f"{option}: expected file.py:function, model:function or package.module:function, got {specification!r}"])
        place, path = match.groups()
        return _attribute(self._module(place, option), place, path, option)

    def imported(self, path: str, option: str) -> Callable[..., Any]:
        """What the dotted path package.module.name stands for. Raises ConfigError that names ``option``."""
        if not _DOTTED.fullmatch(path):
            raise ConfigError([f"{option}: expected package.module.name, got {path!r}"])
        module, _, name = path.rpartition(".")
        return _attribute(self._import(module, option), module, name, option, separator=".")

    def _module(self, place: str, option: str) -> ModuleType:
        if place.endswith(".py"):
            path = find_file(place, self._directory)
            if path is None:
                raise ConfigError([f"{option}: there is no {place}; looked for {looked_for(place, self._directory)}"])
            return self._load_file(path, option)
        if place == SCRIPT_MODULE:
            if self._script is None:
                raise ConfigError([f"{option}: {place} means --custom-script, and there is none in {self._directory}"])
            return self._load_file(self._script, option)
        return self._import(place, option)

    def _import(self, module: str, option: str) -> ModuleType:
        with _user_code(option, module, self._directory):
            return importlib.import_module(module)
        raise AssertionError("the block above returns or raises")

    def _load_file(self, path: Path, option: str) -> ModuleType:
        path = path.resolve()
        if path not in self._files:
            with _user_code(option, str(path), path.parent):
                self._files[path] = _execute(path, f"headway_custom_{len(self._files)}_{path.stem}")
        return self._files[path]


def _attribute(module: ModuleType, place: str, path: str, option: str, separator: str = ":") -> Callable[..., Any]:
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError([f"{option}: {place} has no {path}"])
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError([f"{option}: {place}{separator}{path} is no function but of type {type(found).__name__}"])
    return found  # type: ignore[no-any-return]  # callable() leaves Any


def find_file(name: str, directory: Path) -> Path | None:
    return next((path for path in _candidates(name, directory) if path.is_file()), None)


def looked_for(name: str, directory: Path) -> str:
    return " and ".join(str(path) for path in _candidates(name, directory))


def _candidates(name: str, directory: Path) -> list[Path]:
    """An absolute ``name`` is the only one."""
    return list(dict.fromkeys((directory / name, directory / "code" / name)))


def _execute(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file or a loader for it"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its log lines are wanted as ours are, not from WARNING on as those of libraries.
    logging.getLogger(name).setLevel(logging.getLogger("headway").getEffectiveLevel())
    sys.modules[name] = module  # dataclasses and pydantic look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _user_code(option: str, place: str, folder: Path) -> Iterator[None]:
    """Lets the code import what lies beside it while it loads, and turns its failure into a ConfigError; the log has the traceback."""
    # Last, so that a file there takes no installed package's place.
    sys.path.append(str(folder))
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the edge to code that is not ours
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal's, which came meanwhile
        if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
            raise ConfigError(
                [f"{option}: there is no module {error.name}: install it, or put the folder that has it on PYTHONPATH"]
            ) from error
        log.error("%s: the code of %s failed", option, place, exc_info=error)
        raise ConfigError([f"{option}: {_where(error, place)}: {_what(error)}; the log has the traceback"]) from error
    finally:
        sys.path.remove(str(folder))


def _where(error: BaseException, place: str) -> str:
    """File and line, of the user's own frame if the error came from below it."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == place]
    return f"{place}, line {frames[-1].lineno}" if frames else place


def _what(error: BaseException) -> str:
    return cut(" ".join(f"{type(error).__name__}: {error}".split()), _MAX_SHOWN)
