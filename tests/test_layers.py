"""The house rules, enforced: who may import whom, no cycles, links, file sizes."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("entrypoint", "server", "kernels", "container")

# room -> rooms it may import (itself always). The longest prefix names a module's room.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "server.stats": set(),
    "server.types": {"server.stats"},
    "server.errors": set(),
    "server.words": set(),
    "server.counts": set(),
    "server.children": {"server.machine", "server.words"},
    "server.private_directory": {"server.errors"},
    "server.siblings": {"server.api.process_metrics", "server.children", "server.counts", "server.errors", "server.machine"},
    "server.user_modules": {"server.errors", "server.words"},
    "server.say": set(),
    "server.log": {"server.say"},
    "server.log_setup": {"server.config.logs", "server.errors", "server.log"},
    "server.machine": set(),
    "server.signals": set(),
    "server.phases": set(),
    "server.garbage": set(),
    "server.reaper": set(),
    "server.config": {"server.errors", "server.say", "server.words"},
    "server.source": {"server.errors", "server.words"},
    "server.text": {"server.errors", "server.types", "server.source", "server.config", "server.words"},
    "server.distributed": set(),
    "server.layers": {"kernels", "server.distributed", "server.errors"},
    "server.models": {"server.layers", "server.distributed", "server.errors", "kernels"},
    "server.loading": {
        "kernels.attention_library",
        "kernels.hadamard",
        "kernels.int4_layout",
        "server.models",
        "server.layers",
        "server.distributed",
        "server.errors",
        "server.machine",
        "server.source",
        "server.words",
    },
    "server.sizing": {
        "server.config",
        "server.distributed.places",
        "server.errors",
        "server.layers.quant.scheme",
        "server.loading",
        "server.models",
        "server.source",
        "server.words",
    },
    "server.engine": {
        "server.models",
        "server.layers",
        "server.loading",
        "server.sizing",
        "server.distributed",
        "server.stats",
        "server.types",
        "server.errors",
        "server.garbage",
        "server.log",
        "server.log_setup",
        "server.machine",
        "server.children",
        "server.counts",
        "server.config",
        "server.private_directory",
        "server.source",
        "server.text.grammars",
        "server.text.tokenizer",
        "server.user_modules",
        "server.words",
        "kernels",
    },
    "server.api": {
        "server.engine.client",
        "server.text",
        "server.stats",
        "server.types",
        "server.config",
        "server.counts",
        "server.errors",
        "server.log",
        "server.source",
        "server.user_modules",
        "server.words",
    },
    "server.api_processes": {
        "server.api",
        "server.children",
        "server.config",
        "server.counts",
        "server.engine",
        "server.errors",
        "server.garbage",
        "server.log",
        "server.log_setup",
        "server.siblings",
        "server.source",
    },
    "server.bench": {"server"},
    "server.remote": {"server.bench.server_process", "server.errors"},
    "server.batch": {"server.api.json_text", "server.api.paths", "server.remote", "server.errors", "server.words"},
    "server.terminal": {"server.remote", "server.errors"},
    "server.router": {
        "server.api.access_log",
        "server.api.disconnect",
        "server.api.errors",
        "server.api.file_watch",
        "server.api.http_server",
        "server.api.middleware",
        "server.api.paths",
        "server.api.stream",
        "server.api.tls",
        "server.api.process_metrics",
        "server.children",
        "server.config",
        "server.counts",
        "server.errors",
        "server.garbage",
        "server.listen",
        "server.log",
        "server.log_setup",
        "server.private_directory",
        "server.siblings",
        "server.signals",
        "server.words",
    },
    "server.banner": {"server.config", "server.types", "server.words"},
    "server.kernel_cache": {"server.errors", "server.source.cache"},
    "server.launch": {"server"},
    "server.listen": {"server.config", "server.errors"},
    "server.lifecycle": {"server"},
    "server.starter": {"server.config", "server.engine", "server.machine", "server.phases", "server.sizing", "server.source"},
    "server.cli": {"server", "entrypoint", "container"},
    "entrypoint": {
        "server.config",
        "server.errors",
        "server.machine",
        "server.say",
        "server.signals",
        "server.source.cache",
        "server.source.directory",
        "server.source.space",
        "server.words",
    },
    "container": {
        "entrypoint",
        "server.config",
        "server.bench.server_process",
        "server.errors",
        "server.remote",
        "server.say",
        "server.signals",
        "server.source.archive",
        "server.source.space",
        "server.words",
    },
    # What reads a model's files as the server does, without torch.
    "container.check": {
        "container",
        "entrypoint",
        "server.config",
        "server.errors",
        "server.loading.gguf_file",
        "server.say",
        "server.sizing",
        "server.source",
        "server.text",
        "server.words",
    },
}
NO_TORCH = (
    "entrypoint",
    "container",
    "server.types",
    "server.errors",
    "server.log",
    "server.log_setup",
    "server.machine",
    "server.say",
    "server.signals",
    "server.phases",
    "server.garbage",
    "server.reaper",
    "server.words",
    "server.counts",
    "server.children",
    "server.private_directory",
    "server.user_modules",
    "server.config",
    "server.sizing",
    "server.source",
    "server.text",
    "server.api",
    "server.api_processes",
    "server.siblings",
    "server.router",
)
# Scheduling and messages are policy: the border to tensors is the executor.
NO_TORCH_FILES = {
    f"server.engine.{name}"
    for name in (
        "batch",
        "calls",
        "core",
        "executor.base",
        "expiry",
        "kv.block_pool",
        "kv.manager",
        "kv.prefix",
        "messages",
        "links",
        "client",
        "process_client",
        "engine_process",
        "request",
        "waiting",
        "scheduler",
        "policy",
        "pooling.batch",
        "pooling.scheduler",
        "structured.awaited",
        "finish",
        "sleep",
        "admission",
        "request_stream",
        "repetition",
    )
}
READS_ENVIRONMENT = {
    "kernels.backend",
    "server.cli",
    "server.launch",
    "server.router.workers",
    "server.engine.executor.over_ray.environment",  # of another host, where no launch ran
    "entrypoint.__main__",
    "entrypoint.healthcheck",
}
MAX_LINES = 400


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    rooms = [room for room in ALLOWED if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default="")


@cache
def imports(module: str) -> list[tuple[str, bool]]:
    """(imported module, at import time) for each absolute import in a module."""
    tree = ast.parse(modules()[module].read_text())
    inside_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    type_checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        at_import = id(node) not in inside_functions and id(node) not in type_checking
        if isinstance(node, ast.Import):
            found += [(alias.name, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                is_module = target.removeprefix("headway.") in modules()
                found.append((target if is_module else str(node.module), at_import))
    return found


def own_imports(module: str) -> list[tuple[str, bool]]:
    return [(name.removeprefix("headway."), at_import) for name, at_import in imports(module) if name.startswith("headway.")]


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_downwards(module: str) -> None:
    room = room_of(module)
    assert room or modules()[module].read_text() == "", f"{module} belongs to no room of tests/test_layers.py"
    for target, _ in own_imports(module):
        allowed = target == "" or room_of(target) == room or any(target == r or target.startswith(r + ".") for r in ALLOWED[room])
        assert allowed, f"{module} imports {target}: {room} may import only {sorted(ALLOWED[room])}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_torch_above_the_executor(module: str) -> None:
    if not (module in NO_TORCH_FILES or any(module == r or module.startswith(r + ".") for r in NO_TORCH)):
        return
    heavy = [name for name, _ in imports(module) if name.split(".")[0] in ("torch", "triton")]
    assert not heavy, f"{module} imports {heavy}"


def test_no_import_cycles() -> None:
    """Lazy imports count: they spare time at start-up, not understanding."""
    edges = {module: {t for t, _ in own_imports(module) if t in modules()} for module in modules()}
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, "import cycle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for target in sorted(edges[module]):
            visit(target)
        path.pop()
        done.add(module)

    for module in edges:
        visit(module)


@pytest.mark.parametrize("module", sorted(modules()))
def test_environment_is_read_at_the_edges_only(module: str) -> None:
    text = modules()[module].read_text()
    reads = "os.environ" in text or "os.getenv" in text
    assert not reads or module in READS_ENVIRONMENT, f"{module} reads the environment; take a Mapping instead"


def test_links_and_packages() -> None:
    for package in PACKAGES:
        link = ROOT / "src" / "headway" / package
        assert link.is_symlink()
        assert os.readlink(link) == f"../../{package}"
        assert not (ROOT / package / "__init__.py").exists(), f"{package}/ is a namespace: no __init__.py"
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")} - {ROOT / package}:
            marker = folder / "__init__.py"
            assert marker.exists(), f"{folder.relative_to(ROOT)} has no __init__.py"
            assert marker.read_text() == "", f"{marker.relative_to(ROOT)} must stay empty: one import path a name"
    assert not (ROOT / "kernels" / "triton").exists(), "a folder of that name would shadow Triton"
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_map_of_rooms_is_true() -> None:
    """docs/architecture.md names every file of the rooms in its table, and none that is gone; a topic of options names itself."""
    rows = re.findall(r"^\| `([\w/]+)/` \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) >= 8
    for room, files in rows:
        folder = ROOT / room
        named = set(re.findall(r"`([\w./]+)`", files))
        assert all((folder / name).exists() or (folder / f"{name}.py").exists() for name in named), (
            f"{room}/ has not all of {sorted(named)}"
        )
        topics = {path.stem for path in folder.glob("*.py") if "(Topic):" in path.read_text()}
        unnamed = {path.stem for path in folder.glob("*.py")} - named - topics - {"__init__"}
        assert not unnamed, f"docs/architecture.md does not name {sorted(unnamed)} of {room}/"


@pytest.mark.parametrize("module", sorted(modules()))
def test_files_do_one_thing(module: str) -> None:
    lines = modules()[module].read_text().count("\n")
    assert lines <= MAX_LINES, f"{module} has {lines} lines; split it"
