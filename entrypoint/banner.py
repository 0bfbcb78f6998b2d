"""What the container says first, before anything slow."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from headway import __version__
from headway.entrypoint.drivers import shown
from headway.entrypoint.nvidia import Gpus
from headway.entrypoint.platform import Platform
from headway.server.config.show import differences
from headway.server.config.sources import Resolved, all_names
from headway.server.say import one_line
from headway.server.words import cut, gib, plural

_MIB = 1024**2
# With the lines about the machine that makes a screenful.
_MAX_OPTION_LINES = 14
_MAX_VALUE_LENGTH = 200


def banner(resolved: Resolved, host: Platform) -> list[str]:
    """At most 24 lines: version, model, machine, then each option that is not left at its default, with its source; secrets masked."""
    model, num_ranks = resolved.config.model, resolved.config.parallel.num_ranks
    torch = f"torch {host.torch.version}" if host.torch else "torch is not installed"
    lines = [f"headway {__version__} starts (Python {'.'.join(map(str, sys.version_info[:3]))}, {torch})"]
    if model.model is not None:
        lines.append(f"  model    {one_line(model.model)}   ({resolved.source(all_names().setting('model'))})")
    lines += [f"  {line}" for line in _machine(host, model.device, num_ranks)]
    if resolved.config_file:
        lines.append(f"  config   {one_line(resolved.config_file)}")
    return lines + _options(resolved)


def _machine(host: Platform, device: str, num_ranks: int) -> Iterator[str]:
    yield f"device   {_device(host.gpus, host, device)}"
    of_host = f" of the host's {host.num_host_cores}" if host.num_cores < host.num_host_cores else ""
    yield f"cpu      {host.cpu_name}, {plural(host.num_cores, 'core')}{of_host}"
    of_host = f" of the host's {gib(host.host_memory_bytes)}" if host.memory_bytes < host.host_memory_bytes else ""
    yield f"memory   {gib(host.memory_bytes)}{of_host}"
    shm = "missing" if host.shm_bytes is None else f"{host.shm_bytes // _MIB} MiB"
    talks = "GPUs of a model that is split may exchange tensors there: give it 1 GiB (docker run --shm-size 1g)"
    if num_ranks == 1 or device == "cpu" or not host.gpus.num_devices:
        talks = "of no matter, the server's processes talk over sockets in the temporary directory"
    yield f"shm      {shm}; {talks}"
    state = f"{gib(host.cache.free_bytes)} free" if host.cache.is_writable else "can't be written: set HEADWAY_CACHE to a place that can"
    yield f"cache    {one_line(str(host.cache.path))}, {state}"
    read_only = ", read-only root file system" if host.is_root_read_only else ""
    yield f"user     uid {host.uid}, gid {host.gid}{read_only}"


def _device(gpus: Gpus, host: Platform, device: str) -> str:
    if gpus.num_devices == 0:
        return f"--device {device}: no GPU here{'' if device == 'cuda' else ', the CPU computes'}"
    driver = f"driver {gpus.driver or 'unknown'}, {f'CUDA up to {shown(gpus.cuda)}' if gpus.cuda else 'no libcuda.so.1'}"
    built_for = f"torch is built for {f'CUDA {shown(host.torch.cuda)}' if host.torch.cuda else 'CPUs'}" if host.torch else "no torch"
    names = f" ({', '.join(sorted(set(gpus.names)))})" if gpus.names else ""
    return f"--device {device}: {plural(gpus.num_devices, 'GPU')}{names}, {driver}; {built_for}"


def _options(resolved: Resolved) -> list[str]:
    shown_options = [
        f"{setting.key} = {_short(text)}   ({source})" for setting, text, source in differences(resolved) if not setting.option.positional
    ]
    per_line = -(-len(shown_options) // _MAX_OPTION_LINES) or 1
    return ["  " + "; ".join(shown_options[i : i + per_line]) for i in range(0, len(shown_options), per_line)]


def _short(text: str) -> str:
    return cut(one_line(text), _MAX_VALUE_LENGTH)
