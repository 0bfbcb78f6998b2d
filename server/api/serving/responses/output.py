"""The output of a response as it grows: its items, and OpenAI's event for each change of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from headway.server.api.json_text import encode
from headway.server.api.serving.responses.ids import ResponseIds
from headway.server.api.serving.responses.items import Item
from headway.server.text.output import ToolCallPiece

ItemStatus = Literal["completed", "incomplete"]


class Events:
    """Encodes events and numbers them, for whoever takes them; where nobody wants any, there are none."""

    def __init__(self, *, are_wanted: bool) -> None:
        self._are_wanted = are_wanted
        self._number = 0
        self._new: list[bytes] = []

    def add(self, kind: str, **members: Any) -> None:
        if self._are_wanted:
            # The type first: it becomes the event's name (stream.TypedEvents).
            self._new.append(encode({"type": kind, "sequence_number": self._number, **members}))
            self._number += 1

    def take(self) -> list[bytes]:
        """Those since the last call."""
        new, self._new = self._new, []
        return new


class Output:
    """Items, of which the last one is open until the next begins, or until ``close``."""

    def __init__(self, ids: ResponseIds, events: Events, new_call_id: Callable[[int, str], str]) -> None:
        """``new_call_id``: see CallWriter.new_id."""
        self._items: list[Item] = []
        self._ids = ids
        self._events = events
        self._new_call_id = new_call_id
        self._open: _OpenText | _OpenCall | None = None
        self._call = -1  # the index of the last one in the answer

    @property
    def items(self) -> list[Item]:
        """As they are now; not to be changed."""
        if self._open is not None:
            self._open.settle()
        return self._items

    def add_reasoning(self, text: str) -> None:
        self._text("reasoning").add(text, None)

    def add_text(self, text: str, logprobs: list[Any] | None) -> None:
        """``logprobs``: of the text's tokens, None where they are not asked for."""
        self._text("message").add(text, logprobs)

    def add_call(self, piece: ToolCallPiece) -> None:
        if piece.index != self._call:
            assert piece.name is not None, "the first piece of a call has its name"
            self.close("completed")
            self._call = piece.index
            item = {
                "id": self._new_id("fc"),
                "type": "function_call",
                "call_id": self._new_call_id(piece.index, piece.name),
                "name": piece.name,
                "arguments": "",
                "status": "in_progress",
            }
            self._begin(item)
            self._open = _OpenCall(item, self._emitter(item))
        assert isinstance(self._open, _OpenCall), "a call's pieces come one after another"
        self._open.add(piece.arguments)

    @property
    def has_open_text(self) -> bool:
        """Whether a message is being written."""
        return isinstance(self._open, _OpenText) and self._open.item["type"] == "message"

    def close(self, status: ItemStatus) -> None:
        """Ends the open item; without a word if there is none."""
        if self._open is None:
            return
        item = self._open.item
        self._open.close()
        item["status"] = status
        self._events.add("response.output_item.done", output_index=len(self._items) - 1, item=item)
        self._open = None

    def _text(self, kind: Literal["reasoning", "message"]) -> _OpenText:
        if not isinstance(self._open, _OpenText) or self._open.item["type"] != kind:
            self.close("completed")
            item: Item = {"id": self._new_id("rs"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
            if kind == "message":
                item = {"id": self._new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            self._begin(item)
            self._open = _OpenText(item, self._emitter(item))
        return self._open

    def _begin(self, item: Item) -> None:
        self._events.add("response.output_item.added", output_index=len(self._items), item=item)
        self._items.append(item)

    def _emitter(self, item: Item) -> Callable[..., None]:
        """Tells what happens to the item."""
        index = len(self._items) - 1

        def emit(kind: str, **members: Any) -> None:
            self._events.add(kind, item_id=item["id"], output_index=index, **members)

        return emit

    def _new_id(self, kind: str) -> str:
        return self._ids.of_item(kind, str(len(self._items)))


class _OpenText:
    """Reasoning or a message: an item with one part."""

    def __init__(self, item: Item, emit: Callable[..., None]) -> None:
        self.item = item
        self._emit = emit
        self._is_message = item["type"] == "message"
        self._kind = "output_text" if self._is_message else "reasoning_text"
        self._part: Item = {"type": self._kind, "text": ""} | ({"annotations": [], "logprobs": []} if self._is_message else {})
        self._emit("response.content_part.added", content_index=0, part=self._part)
        item["content"].append(self._part)
        self._texts: list[str] = []  # joined when somebody looks: a text that grows by each token would be copied as often

    def add(self, text: str, logprobs: list[Any] | None) -> None:
        self._texts.append(text)
        extra = {"logprobs": logprobs or []} if self._is_message else {}
        if logprobs:
            self._part["logprobs"] += logprobs
        self._emit(f"response.{self._kind}.delta", content_index=0, delta=text, **extra)

    def settle(self) -> None:
        self._part["text"] = "".join(self._texts)

    def close(self) -> None:
        self.settle()
        extra = {"logprobs": self._part["logprobs"]} if self._is_message else {}
        self._emit(f"response.{self._kind}.done", content_index=0, text=self._part["text"], **extra)
        self._emit("response.content_part.done", content_index=0, part=self._part)


class _OpenCall:
    def __init__(self, item: Item, emit: Callable[..., None]) -> None:
        self.item = item
        self._emit = emit
        self._arguments: list[str] = []

    def add(self, arguments: str) -> None:
        if arguments:
            self._arguments.append(arguments)
            self._emit("response.function_call_arguments.delta", delta=arguments)

    def settle(self) -> None:
        self.item["arguments"] = "".join(self._arguments)

    def close(self) -> None:
        self.settle()
        name, arguments = self.item["name"], self.item["arguments"]
        self._emit("response.function_call_arguments.done", name=name, arguments=arguments)
