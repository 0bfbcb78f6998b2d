from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import ApiServer
from custom_scripts import Scripts


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A ready server with default options."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)
