"""What /docs shows of request bodies, which the handlers parse themselves."""

from __future__ import annotations

from typing import Any

from headway.server.api.protocol.base import RequestModel


def request_body(models: tuple[type[RequestModel], ...]) -> dict[str, Any]:
    """OpenAPI's requestBody for one model or one of several."""
    schemas = [_schema(model) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _schema(model: type[RequestModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    resolved = _inlined(schema, definitions)
    assert isinstance(resolved, dict)
    return resolved


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """``node`` with its references replaced by what they refer to; ours are never recursive."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items()}
