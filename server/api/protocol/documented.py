"""The base of what answers hold, for the documentation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Documented(BaseModel):
    """An object with no other members than these."""

    model_config = ConfigDict(extra="forbid", defer_build=True)  # no validator is ever needed
