"""Reads the small JSON files beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headway.server.errors import ModelSourceError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model directory; empty where the file is missing. Raises ModelSourceError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSourceError(f"{path} cannot be read: {error}; copy or download it again.") from error
    if not isinstance(found, dict):
        raise ModelSourceError(f"{path} holds no JSON object; copy or download it again.")
    return found
