"""Options about who may use the server."""

from __future__ import annotations

import re

from headway.server.config.fields import Topic, option

_SENDABLE = re.compile(r"[^\x00-\x1f\x7f]+")
# What a path looks like once it is decoded and nothing in it leads elsewhere; a slash at the end changes nothing.
_PREFIX = re.compile(r"(/[^/%?#\\\s\x00-\x1f\x7f]+)+/?")


class SecurityConfig(Topic):
    """Security."""

    api_key: list[str] = option(
        [],
        "Keys of which a client must send one as `Authorization: Bearer KEY`; /ping, /health, /metrics and /version stay open.",
        secret=True,
        environment=("VLLM_API_KEY",),
    )
    api_key_file: str | None = option(
        None,
        "A file with further keys, one a line: the key, or sha256: and its hash. It is read again whenever it changes.",
        environment=("VLLM_API_KEY_FILE",),
        location=True,
    )
    api_key_open_prefixes: list[str] = option(
        [], "Paths that need no key either, each with all that is below it: /docs opens /docs and /docs/a, not /docs-2."
    )

    @property
    def has_keys(self) -> bool:
        """Whether clients must send a key."""
        return bool(self.api_key) or self.api_key_file is not None


def security_problems(security: SecurityConfig) -> list[str]:
    found = []
    if any(not _SENDABLE.fullmatch(key) for key in security.api_key):
        found.append("--api-key holds a line break or another control character, so that no client can send it (it is not shown)")
    if security.api_key_file is not None and "://" in security.api_key_file:
        found.append(
            f"--api-key-file must be the path of a local file, got {security.api_key_file!r}; keys that stand elsewhere are read once, "
            "at the start, with SM_VLLM_API_KEY=s3://BUCKET/KEY and the like"
        )
    rule = "--api-key-open-prefixes must hold paths such as /docs, without %, //, . and .., and not / itself"
    return [*found, *(f"{rule}; got {prefix!r}" for prefix in security.api_key_open_prefixes if not _is_path(prefix))]


def security_warnings(security: SecurityConfig) -> list[str]:
    found = []
    if any(" " in key for key in security.api_key):
        found.append("a key of --api-key holds a blank and counts as one key: put commas between if it should be several")
    if security.api_key_open_prefixes and not security.has_keys:
        found.append("--api-key-open-prefixes is not used: there is no --api-key and no --api-key-file, so that everything is open")
    return found


def _is_path(prefix: str) -> bool:
    return _PREFIX.fullmatch(prefix) is not None and not {".", ".."} & set(prefix.split("/"))
