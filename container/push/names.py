"""Names of repositories and tags, as registries take them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headway.server.errors import ConfigError

# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests, and ECR's own limits.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_NO_TAG = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


def checked_repository(name: str) -> str:
    """``name``. Raises ConfigError."""
    if not 2 <= len(name) <= 256 or not _REPOSITORY.fullmatch(name):
        raise ConfigError([f"--repository {name!r}: expected 2 to 256 lower-case letters and digits, with . _ - or / between them"])
    return name


def checked_tags(tags: list[str]) -> list[str]:
    """``tags``, each once. Raises ConfigError."""
    if wrong := [tag for tag in tags if not _TAG.fullmatch(tag)]:
        raise ConfigError([f"--tag {tag!r}: expected 1 to 128 letters, digits, dots, dashes and underscores" for tag in wrong])
    return list(dict.fromkeys(tags))


def tag_of(labels: Mapping[str, str], is_dirty: bool) -> str:
    """What an image of ours is called by its labels: VERSION-COMMIT, -cuda for that variant, -dirty for no commit's code.

    Raises ConfigError if the labels tell no version.
    """
    version = labels.get("org.opencontainers.image.version", "")
    if version in ("", "unknown"):
        raise ConfigError(["--tag is needed: the image's label org.opencontainers.image.version names no version"])
    commit = labels.get("org.opencontainers.image.revision", "")[:12]
    variant = labels.get("headway.variant", "cpu")
    words = [version, "" if commit == "unknown" else commit, "" if variant == "cpu" else variant, "dirty" if is_dirty else ""]
    return _NO_TAG.sub("-", "-".join(filter(None, words)))[:128]
