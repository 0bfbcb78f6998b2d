"""The header that SageMaker puts on calls of an adapter's inference component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.server.api.deps import AppState

IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"


def with_adapter(state: AppState, headers: Mapping[str, str], fields: dict[str, Any]) -> dict[str, Any]:
    """The body's ``fields`` with the adapter that the header names for their ``model``; as they are where there is no such header.

    Raises RequestError where adapters are off, AdapterNotFound, and the errors of deps.ready_model.
    """
    name = headers.get(IDENTIFIER)
    if not name:
        return fields
    state.adapters.check_enabled()
    state.ready_model()
    return {**fields, "model": state.adapters.get(name, IDENTIFIER).name}
