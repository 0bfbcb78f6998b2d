"""AddTags, ListTags and DeleteTags, for everything that has an ARN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headway.container.local.control.registry import Record, Registry, refused, tags_of

_MAX_TAGS = 50


class Tagging:
    def __init__(self, registries: Sequence[Registry[Any]]) -> None:
        self._registries = registries

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        record = self._record(request)
        tags = record.tags | tags_of(request)
        if len(tags) > _MAX_TAGS:
            raise refused(f"{record.arn} would have {len(tags)} tags, and {_MAX_TAGS} are allowed.")
        record.tags = tags
        return self.list(request)

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """All on one page: there are not more than 50."""
        return {"Tags": [{"Key": key, "Value": value} for key, value in self._record(request).tags.items()]}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        record = self._record(request)
        record.tags = {key: value for key, value in record.tags.items() if key not in request["TagKeys"]}
        return {}

    def _record(self, request: dict[str, Any]) -> Record:
        for registry in self._registries:
            for record in registry:
                if record.arn == request["ResourceArn"]:
                    found: Record = record
                    return found
        raise refused(f'Could not find resource "{request["ResourceArn"]}".')
