from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_server import ApiServer


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A ready server with default options."""
    with ApiServer() as server:
        yield server
