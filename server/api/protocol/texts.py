"""Texts as bodies give them: one or many, as texts or as token ids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

MAX_TEXTS = 65536  # whatever --max-completion-prompts and --max-pooling-inputs allow

Text = str | list[int]

_TEXT_OR_IDS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
_TEXT_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"text": {"type": "string"}}}]}
_TEXTS_SCHEMA = {"anyOf": [*_TEXT_SCHEMA["anyOf"], {"type": "array", "items": _TEXT_SCHEMA}]}


def _texts_or_ids(value: Any, info: ValidationInfo) -> list[Text]:
    """The four forms of OpenAI's prompt and input as one list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _is_ids(value):
            return [value]
        if all(isinstance(item, str) for item in value) or all(map(_is_ids, value)):
            return _at_most_texts(value, info)
    raise ValueError(f"{info.field_name} must be a text, a list of texts, a list of token ids, or a list of such lists, and not be empty")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _texts(value: Any, info: ValidationInfo) -> list[str]:
    """A text or several; in the form {"text": ..} too, as Jina's clients write documents."""
    items = value if isinstance(value, list) else [value]
    texts = [item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{info.field_name} must be a text or a list of texts (or of {{"text": ..}}), and not be empty')
    return _at_most_texts(texts, info)


def _at_most_texts(items: list[Any], info: ValidationInfo) -> list[Any]:
    if len(items) > MAX_TEXTS:
        raise ValueError(f"{info.field_name} holds {len(items)} texts; at most {MAX_TEXTS} go into one request")
    return items


TextsOrIds = Annotated[list[Text], PlainValidator(_texts_or_ids), WithJsonSchema(_TEXT_OR_IDS_SCHEMA)]
Texts = Annotated[list[str], PlainValidator(_texts), WithJsonSchema(_TEXTS_SCHEMA)]
