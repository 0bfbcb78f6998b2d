"""Copies that are processes of this machine: no engine is needed, and nothing keeps them from the machine's files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.container.local.copies.base import Copy, CopyFailed, CopySpec
from headway.container.local.copies.log import CopyLog
from headway.server.bench.server_process import free_port

ENTRYPOINT = (sys.executable, "-m", "headway.server.cli", "entrypoint")
# Of the machine's variables these are not a container's: it gets what its model's Environment says, and no more.
_FOREIGN = ("SM_", "SAGEMAKER_", "HF_", "VLLM_", "HEADWAY_", "AWS_ENDPOINT_URL")
# But the same files are fetched once, as they would be for a server of this machine.
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HEADWAY_CACHE")
_GUARD = (sys.executable, "-m", "headway.container.local.copies.guard")


class ProcessStarter:
    """Starts ``command`` with the spec's words. ``machine`` is this process' environment."""

    def __init__(self, machine: Mapping[str, str], command: Sequence[str] = ENTRYPOINT) -> None:
        self._command = tuple(command)
        self._base = {name: value for name, value in machine.items() if name in _CACHES or not name.startswith(_FOREIGN)}

    async def start(self, spec: CopySpec, gpus: Sequence[str], log: CopyLog) -> Copy:
        if spec.additional_directory is not None:
            raise CopyFailed("AdditionalModelDataSources lie below /opt/ml, where a process can't be given them: run containers (--image).")
        port = free_port()
        # A container's own default is all interfaces, which on this machine's network are not the runtime's alone.
        environ = {**self._base, "SM_VLLM_HOST": "127.0.0.1", **spec.environ, "SAGEMAKER_BIND_TO_PORT": str(port)}
        if spec.model_directory is not None:
            environ["SAGEMAKER_MODEL_PATH"] = str(spec.model_directory)
        if spec.adapters_directory is not None:
            environ.setdefault("SM_VLLM_LORA_ALLOWED_PREFIXES", f"{spec.adapters_directory}/")
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        argv = (*_GUARD, *self._command, *spec.words)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=environ,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as problem:  # ValueError: a zero byte in the environment
            raise CopyFailed(f"The container's process can't be started: {problem}.") from problem
        return _Process(process, f"http://127.0.0.1:{port}", spec.adapters_directory, log)

    async def sweep(self) -> int:
        return 0  # the guards have ended theirs

    async def close(self) -> None:
        """It holds nothing."""


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, url: str, adapters: Path | None, log: CopyLog) -> None:
        self.url = url
        self._process = process
        self._adapters = adapters
        self._life = asyncio.create_task(self._follow(log))

    def adapter_source(self, name: str) -> str:
        assert self._adapters is not None, "started without a place for adapters"
        return str(self._adapters / name)

    async def ended(self) -> str:
        return f"exited with status {await asyncio.shield(self._life)}"

    async def stop(self, patience_s: float) -> None:
        try:
            if not self._life.done():
                self._terminate()
                await asyncio.wait([self._life], timeout=patience_s)
        finally:  # also when the patience is cut short
            assert self._process.stdin is not None
            self._process.stdin.close()
            await asyncio.shield(self._life)

    def _terminate(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()

    async def _follow(self, log: CopyLog) -> int:
        """Reads the log to its end, which is when the guard and all that was started below it have ended."""
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            log.write(data)
        return await self._process.wait()
