"""What a response answers: the items of the conversation before, and those of its request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headway.server.api.json_text import encode
from headway.server.api.protocol.parse import shortened
from headway.server.api.responses_store import ResponsesStore, StoredResponse
from headway.server.api.serving.responses.ids import ResponseIds, response_of_item
from headway.server.api.serving.responses.items import Item, normalised
from headway.server.errors import ResponseNotFound


@dataclass(frozen=True, slots=True)
class Conversation:
    """``history``: JSON of all items before the request's own ``input``, which is JSON too; ``items``: both."""

    items: list[Item]
    history: bytes
    input: bytes


def referenced(store: ResponsesStore, owner: bytes, given: str | list[Item]) -> dict[str, StoredResponse]:
    """The responses, by id, whose items ``given`` refers to, as far as they are there."""
    ids = [item.get("id") for item in given if isinstance(item, dict) and item.keys() <= {"id", "type"}]
    named = {response_of_item(item_id) for item_id in ids if isinstance(item_id, str)}
    return {response_id: found for response_id in named if (found := store.ended(owner, response_id)) is not None}


def conversation_of(
    given: str | list[Item], ids: ResponseIds, previous: StoredResponse | None, kept: Mapping[str, StoredResponse]
) -> Conversation:
    """``given`` behind ``previous``; ``kept`` is what it refers to. CPU work. Raises RequestError, ResponseNotFound."""
    known = {item["id"]: item for response in kept.values() for item in response.conversation()}

    def resolve(item_id: str, where: str) -> Item:
        if item_id not in known:
            raise ResponseNotFound(f"Item with id {shortened(item_id)} not found.", where)
        return known[item_id]

    history = [] if previous is None else previous.conversation()
    items = normalised(given, ids, resolve)
    return Conversation([*history, *items], encode(history), encode(items))
