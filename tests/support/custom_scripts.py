"""A directory with a user's scripts, and the application with custom handlers from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api_server import ApiServer

IMPORTS = """\
import json
import model_hosting_container_standards.sagemaker as sagemaker_standards
from fastapi import HTTPException, Request, Response
"""


class Scripts:
    """A model directory for a test's scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str, name: str = "model.py") -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(IMPORTS + text)

    def server(self, options: dict[str, Any] | None = None, **topics: Any) -> ApiServer:
        custom = {"enable_custom_handlers": True, "custom_script_directory": str(self.directory), **(options or {})}
        return ApiServer(sagemaker=custom, **topics)
