"""Where an adapter may be read from: a `src` that came over the network to a directory below the allowed prefixes, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headway.server.errors import AdapterError, AdapterNotFound
from headway.server.words import cut

CONFIG_NAME = "adapter_config.json"
# What the engine will open. A link among these must not lead out of the prefixes either.
_FILES = (CONFIG_NAME, "adapter_model.safetensors")


def allowed_directory(src: str, prefixes: Sequence[str], param: str) -> Path:
    """The adapter's directory, links resolved. Reads the file system. Raises AdapterError, AdapterNotFound.

    ``src`` is an absolute path or a file:// address below one of ``prefixes``, of the directory with adapter_config.json or of one
    that holds just that directory, as an unpacked archive often does. What lies elsewhere is not looked at, nor told of.
    """
    asked = _path(src, param)
    allowed = [Path(prefix) for prefix in prefixes]
    roots = [root for prefix in allowed for root in (prefix, prefix.resolve())]
    _check_below(asked, roots, src, prefixes, param)
    directory = adapter_directory(asked, param)
    for path in (directory, *(directory / name for name in _FILES)):
        _check_below(path.resolve(), roots, src, prefixes, param)
    return directory


def adapter_directory(path: Path, param: str) -> Path:
    """``path``, links resolved, or the one directory in it, whichever has an adapter_config.json. Raises AdapterNotFound."""
    try:
        directory = path.resolve(strict=True)
        inner = [] if (directory / CONFIG_NAME).is_file() else [entry for entry in directory.iterdir() if entry.is_dir()]
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise AdapterNotFound(f"There is no adapter in {_shown(path)}: the directory does not exist or can't be read.", param) from error
    if len(inner) == 1 and (inner[0] / CONFIG_NAME).is_file():
        return inner[0].resolve()
    if not (directory / CONFIG_NAME).is_file():
        raise AdapterNotFound(f"There is no adapter in {_shown(path)}: it has no {CONFIG_NAME}.", param)
    return directory


def _path(src: str, param: str) -> Path:
    if "://" in src:
        try:
            parts = urlsplit(src)
        except ValueError as error:  # brackets that hold no IPv6 address
            raise AdapterError(f"{param} must be an absolute path or a file:// address, got {_shown(src)}.", param) from error
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise AdapterError(f"{param} must be an absolute path or a file:// address, got {_shown(src)}.", param)
        src = unquote(parts.path)
    if not src.startswith("/") or "\0" in src:
        raise AdapterError(f"{param} must be an absolute path or a file:// address, got {_shown(src)}.", param)
    if ".." in src.split("/"):
        raise AdapterError(f"{param} must not have .. in it, got {_shown(src)}.", param)
    return Path(src)


def _check_below(path: Path, roots: Sequence[Path], src: str, prefixes: Sequence[str], param: str) -> None:
    if not any(path.is_relative_to(root) for root in roots):
        raise AdapterError(
            f"Adapters are loaded from below {', '.join(prefixes)} only (--lora-allowed-prefixes), and {_shown(src)} is elsewhere.", param
        )


def _shown(src: object) -> str:
    return repr(cut(str(src), 200))
