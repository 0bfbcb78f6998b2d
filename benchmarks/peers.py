"""How each server that benchmarks/compare.py knows is started, with the settings that let it do its best on CPU cores."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from headway import __version__

_LONGEST = 2048  # tokens of a sequence in any work, with room
_SLOTS = 32  # clients of the widest work

_AS_AVX2 = Path(__file__).parent / "as_avx2"
# What keeps torch, oneDNN and MKL from more than AVX2, whatever the processor has.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(slots=True, frozen=True)
class Peer:
    """A server to start. ``{port}`` in ``argv`` is filled in; ``version`` is for the record."""

    name: str
    argv: list[str]
    version: str
    env: dict[str, str] = field(default_factory=dict)  # beside the caller's
    ready_limit_s: float = 120.0

    def command(self, port: int) -> list[str]:
        return [part.replace("{port}", str(port)) for part in self.argv]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {**environ, **self.env}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="what headway serves")
    parser.add_argument("--headway-args", default="", metavar="ARGS", help="further options of `headway serve`, as one word")
    parser.add_argument("--llama-server", metavar="PATH", help="llama.cpp's llama-server")
    parser.add_argument("--llama-gguf", metavar="FILE", help="the model for it")
    parser.add_argument("--llama-args", default="", metavar="ARGS", help="further options of llama-server")
    parser.add_argument("--vllm-python", metavar="PATH", help="the python that has vLLM installed")
    parser.add_argument("--vllm-model", metavar="DIR", help="the model for it: a directory with safetensors")
    parser.add_argument("--vllm-args", default="", metavar="ARGS", help="further options of vLLM's API server")
    parser.add_argument("--vllm-preload", default="", metavar="FILES", help="LD_PRELOAD for vLLM: tcmalloc and libiomp5")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="any other server; {port} is filled in")
    parser.add_argument("--as-avx2", action="store_true", help="as on a processor without AVX-512 (of servers that run on torch)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores that the peers may use")


def chosen_peers(options: argparse.Namespace) -> list[Peer]:
    """Headway first, then the others that the options name. Raises ValueError for half-named ones."""
    peers = _named_peers(options)
    if options.as_avx2:
        told = AVX2 | {"PYTHONPATH": os.pathsep.join(filter(None, (str(_AS_AVX2), os.environ.get("PYTHONPATH"))))}
        peers = [replace(peer, env=peer.env | told) for peer in peers]
    return peers


def _named_peers(options: argparse.Namespace) -> list[Peer]:
    peers = [_headway(options)]
    for first, second in (("llama_server", "llama_gguf"), ("vllm_python", "vllm_model")):
        if bool(getattr(options, first)) != bool(getattr(options, second)):
            raise ValueError(f"--{first.replace('_', '-')} and --{second.replace('_', '-')} go together")
    if options.llama_server:
        peers.append(_llama(options))
    if options.vllm_python:
        peers.append(_vllm(options))
    for text in options.peer:
        name, equals, command = text.partition("=")
        if not equals or "{port}" not in command:
            raise ValueError(f"--peer takes NAME=COMMAND with {{port}} in the command, not {text!r}")
        peers.append(Peer(name, shlex.split(command), version="unknown"))
    return peers


def vllm_environment(python: str, num_threads: int, preload: str = "") -> dict[str, str]:
    """What vLLM needs to use ``num_threads`` cores of a CPU; ``preload`` names shared libraries."""
    env = {
        "OMP_NUM_THREADS": str(num_threads),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_threads - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # Its compiler and helpers are looked up next to its python.
        "PATH": f"{Path(python).parent}:{os.environ.get('PATH', '')}",
    }
    return env | ({"LD_PRELOAD": preload} if preload else {})


def vllm_version(python: str) -> str:
    return _output([python, "-c", "import vllm.version; print(vllm.version.__version__)"])


def headway_version() -> str:
    return f"{__version__} {_output(['git', '-C', str(Path(__file__).parent), 'rev-parse', '--short', 'HEAD'])}".strip()


def _headway(options: argparse.Namespace) -> Peer:
    argv = [sys.executable, "-m", "headway.server.cli", "serve", options.model, "--host", "127.0.0.1", "--port", "{port}"]
    return Peer("headway", argv + shlex.split(options.headway_args), headway_version())


def _llama(options: argparse.Namespace) -> Peer:
    """One unified KV cache that holds every slot's longest sequence; as many slots as the widest work has clients."""
    argv = [options.llama_server, "-m", options.llama_gguf, "--host", "127.0.0.1", "--port", "{port}"]
    argv += ["-t", str(options.threads), "-tb", str(options.threads), "--parallel", str(_SLOTS), "-c", str(_SLOTS * _LONGEST)]
    argv += ["-cb", "-kvu", "-b", "2048", "-ub", "512", *shlex.split(options.llama_args)]
    return Peer("llama.cpp", argv, _output([options.llama_server, "--version"]))


def _vllm(options: argparse.Namespace) -> Peer:
    """The module and not `vllm serve`, which fails where the package's metadata has another name. It uses one core unless told."""
    argv = [options.vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", "{port}"]
    argv += ["--model", options.vllm_model, "--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "64"]
    argv += ["--enable-prefix-caching", *shlex.split(options.vllm_args)]
    env = vllm_environment(options.vllm_python, options.threads, options.vllm_preload)
    return Peer("vllm", argv, vllm_version(options.vllm_python), env, ready_limit_s=900.0)  # it compiles at start


def _output(argv: list[str]) -> str:
    """The last line that a command says about its version; empty if it says nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    versions = [line for line in lines if line.startswith("version")]
    return (versions or lines or [""])[-1].strip()
